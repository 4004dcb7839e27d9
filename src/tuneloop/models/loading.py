"""Loading a stored model for one piece of work, apart from those that are served."""

from pathlib import Path

from tuneloop.models.encoders import Encoder, load_encoder
from tuneloop.models.registry import ModelRegistry


def load_run(registry: ModelRegistry, run_id: str, folder: Path) -> Encoder:
    """The encoder that a run stored, downloaded to `folder` and verified.

    Raises:
        NotFound: the run or its model is gone.
        Conflict: no Tuneloop run stored it, its files were changed, or it is of no kind that is served.
    """
    registry.stored.verify(run_id, registry.tracking.download_model(run_id, folder))
    return load_encoder(folder)
