"""Complete codecs, and what the package ships of them: configs to train, weights to use. Importing this imports no torch."""

from pathlib import Path

_HERE = Path(__file__).parent

CONFIGS = {f"{path.parent.parent.name}/{path.stem}": path for path in sorted(_HERE.glob("*/configs/*.yaml"))}
WEIGHTS = {path.stem: path for path in sorted(_HERE.glob("*/weights/*.safetensors"))}
PEERS = {  # prefix of a model's name: what makes a codec of the rest of it
    "encodec": "neuralcodec.codecs.audio.peers.encodec",
    "dac": "neuralcodec.codecs.audio.peers.dac",
    "hub": "neuralcodec.codecs.hub.load",
    "fitted": "neuralcodec.codecs.fitted.timed",
    "compressai": "neuralcodec.codecs.image.peers.compressai",
}
FITTED = ".Fitted"  # what the classes of codecs are called that are fitted to each signal, in configs
OVERFITTED = "image-overfitted"  # the model of --effort overfit
# The weights that `encode` uses for a modality unless told otherwise, and `tokens`.
DEFAULTS = {"image": "image-tiny", "audio": "speech-16k", "video": "video/tiny", "tokens": "speech-16k-tokens"}
