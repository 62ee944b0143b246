"""What images and toys share: a teacher, a student, and the learner that trains both."""
