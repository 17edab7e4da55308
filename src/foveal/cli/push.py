"""``foveal push FOLDER REPO_ID [--private]``"""

import logging
from pathlib import Path
from typing import Annotated

import tyro

from .._errors import UserError, first_line
from ..tasks import kind_of, weights_folder

MEANING = {
    401: "the token is not valid",
    403: "the token may not write there",
    404: "no such user or organisation, or the token may not see it",
}
LOADERS = {"detection": "load_detector", "segmentation": "load_segmenter", "keypoints": "load_keypoints"}
FILES = ("model.safetensors", "config.json", "README.md", "run.json")  # and nothing else leaves the machine


def main(
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")],
    repo_id: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="USER/NAME")],
    /,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str = "Upload a model of foveal",
) -> int:
    """Share a trained model on the Hugging Face Hub: weights, config.json, README.md and run.json, nothing else.

    The token is the one of ``hf auth login`` or HF_TOKEN.

    Args:
        folder: of a run, or of weights with timm's config.json.
        repo_id: where to; made if it does not exist.
        private: make it so that only you see it.
        revision: branch to upload to; made if it does not exist.
        message: of the commit.
    """
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError
        from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    except ImportError:
        raise UserError("pushing needs huggingface_hub: pip install 'foveal[hub]'") from None
    weights = weights_folder(folder)
    api = HfApi(token=True)  # a token must be there
    logger = logging.getLogger("huggingface_hub")  # it tells of every attempt
    level, bars = logger.level, not are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    disable_progress_bars()
    try:
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id,
            folder_path=weights,
            allow_patterns=list(FILES),
            revision=revision,
            commit_message=message,
        )
    except LocalTokenNotFoundError:
        raise UserError("no token of the Hugging Face Hub: run `hf auth login`, or set HF_TOKEN") from None
    except HfHubHTTPError as error:
        code = error.response.status_code
        what = MEANING.get(code, error.server_message or first_line(error))
        raise UserError(f"the Hub answered {code} to {repo_id}: {what}") from None
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        raise UserError(f"cannot push to {repo_id} at {api.endpoint}: {first_line(error)}") from None
    finally:
        logger.setLevel(level)
        if bars:
            enable_progress_bars()
    sent = [name for name in FILES if (weights / name).is_file()]
    print(f"{', '.join(sent)} are at {url}" + (f", branch {revision}" if revision else ""))
    if (kind := kind_of(str(folder))) == "classification":
        print(f'next: import foveal, timm; timm.create_model("hf-hub:{repo_id}", pretrained=True)')
    else:
        print(f"next: hf download {repo_id} --local-dir FOLDER, then import foveal; foveal.{LOADERS[kind]}('FOLDER')")
    return 0
