"""Policies in folders and on the Hugging Face hub: one file, a model card, results."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

from cmpolicy.errors import InputError, needs_extra, one_line
from cmpolicy.policy.model_card import RESULTS, model_card, read_results, shareable

POLICY = "policy.safetensors"
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")

Results = str | Path | Mapping[str, Any]


class Shared:
    """What a policy needs to be shared; mixed into one that has `save` and `load`."""

    if TYPE_CHECKING:  # of the class that this is mixed into

        def save(self, path: str | Path) -> None: ...

        @classmethod
        def load(cls, path: str | Path, device: str | torch.device = "cpu") -> Any: ...

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        device: str | torch.device = "cpu",
    ) -> Self:
        """Load a policy of a folder, or of a repository on the hub.

        Only `policy.safetensors` is fetched and read; nothing of the hub is executed.

        Args:
            name: a folder that `save_pretrained` wrote, or OWNER/NAME on the hub.
            revision: a branch, tag or commit of the repository.

        Raises:
            InputError: there is none, it cannot be fetched, or it is no policy.
        """
        folder = Path(name)
        if folder.is_dir():
            path = folder / POLICY
        elif REPOSITORY.fullmatch(str(name)):
            path = _fetched(str(name), revision, token)
        else:
            raise InputError(f"{name} is no folder, and no repository's id OWNER/NAME")
        loaded: Self = cls.load(path, device)
        return loaded

    def save_pretrained(
        self, folder: str | Path, *, results: Results | None = None, name: str | None = None
    ) -> Path:
        """Write `policy.safetensors`, a model card and the results into a folder.

        Args:
            results: a run directory, its results.json, or its content; without it the card says
                what the policy is, but not how it was trained.
            name: what the card calls it; the folder's name by default.

        Raises:
            InputError: the results cannot be read.
        """
        folder = Path(folder)
        read = None if results is None else shareable(read_results(results))
        card = model_card(self, name or str(folder), read)
        folder.mkdir(parents=True, exist_ok=True)
        self.save(folder / POLICY)
        (folder / "README.md").write_text(card, encoding="utf-8")
        if read is not None:
            (folder / RESULTS).write_text(json.dumps(read, indent=2) + "\n")
        return folder

    def push_to_hub(
        self,
        repo_id: str,
        *,
        results: Results | None = None,
        private: bool | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        message: str = "Upload policy",
    ) -> str:
        """Upload what `save_pretrained` writes to OWNER/NAME on the hub, and give its address.

        The repository is made if it is not there.

        Raises:
            InputError: the extra `hub` is missing, the id is none, or the hub refuses.
        """
        if not REPOSITORY.fullmatch(repo_id):
            raise InputError(f"{repo_id!r} is no repository's id, expected OWNER/NAME")
        with needs_extra("hub"):
            import huggingface_hub
        with tempfile.TemporaryDirectory() as temporary:
            folder = self.save_pretrained(temporary, results=results, name=repo_id)
            api = huggingface_hub.HfApi(token=token)
            try:
                url = api.create_repo(repo_id, private=private, exist_ok=True)
                api.upload_folder(
                    repo_id=repo_id, folder_path=folder, revision=revision, commit_message=message
                )
            except Exception as error:  # the hub and the network have many kinds
                raise InputError(
                    f"the hub did not take {repo_id} ({one_line(error)}); log in with `hf auth "
                    "login`, or give token="
                ) from error
        return str(url)


def _fetched(name: str, revision: str | None, token: str | bool | None) -> Path:
    with needs_extra("hub"):
        import huggingface_hub
    try:
        return Path(huggingface_hub.hf_hub_download(name, POLICY, revision=revision, token=token))
    except Exception as error:  # the hub and the network have many kinds
        raise InputError(
            f"no folder {name}, and the hub gives no {POLICY} of {name} ({one_line(error)})"
        ) from error
