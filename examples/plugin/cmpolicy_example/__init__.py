"""An agent, a loss, a network and a task of a package of its own."""
