"""Complete codecs, and what the package ships of them: configs to train, weights to use. Importing this imports no torch."""

from pathlib import Path

_HERE = Path(__file__).parent

CONFIGS = {f"{path.parent.parent.name}/{path.stem}": path for path in sorted(_HERE.glob("*/configs/*.yaml"))}
WEIGHTS = {path.stem: path for path in sorted(_HERE.glob("*/weights/*.safetensors"))}
DEFAULTS = {"image": "image-tiny"}  # the weights that `encode` uses for a modality unless told otherwise
