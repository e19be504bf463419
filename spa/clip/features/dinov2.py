"""DINOv2 (Oquab et al. 2023) through transformers."""

from spa.clip.availability import Row
from spa.clip.features.maps import FeatureModel
from spa.clip.hub import hub_directory, hub_status, load_pretrained
from spa.clip.torch_models import need, pick_device, pixel_batches
from spa.errors import FrontEndError

DINO_MODEL = "facebook/dinov2-base"
MEGABYTES = 346
DINO_TYPES = ("dinov2", "dinov2_with_registers", "dinov3_vit")
LONG_SIDE_PATCHES = 64  # a map is 36 x 64 for a 16:9 clip
BATCH_SIZES = {"cpu": 1, "cuda": 16}


def load(options=None, long_side_patches: int = LONG_SIDE_PATCHES) -> FeatureModel:
    """Loads DINOv2: the last layer's patch tokens, normalised as the network does; in
    float16 on a GPU. `dino_model` of the options is a name on the Hugging Face hub, or
    a folder of `save_pretrained`."""
    for package in ("torch", "transformers"):
        need(package, "DINOv2")
    name = getattr(options, "dino_model", None) or DINO_MODEL
    device = pick_device()
    folder = hub_directory(name, "DINOv2", "dino_model")
    network = load_pretrained("AutoModel", folder, device)
    kind = network.config.model_type
    if kind not in DINO_TYPES:
        raise FrontEndError(
            f"{name} is a {kind!r} model: dino_model must be one of "
            f"{', '.join(DINO_TYPES)}"
        )

    def maps(frames, grid=None):
        grid = grid or _patch_grid(frames[0].shape[:2], long_side_patches)
        yield from _feature_maps(network, frames, grid, BATCH_SIZES[device])

    return FeatureModel(str(name), network.config.hidden_size, maps)


def status(options=None) -> list[Row]:
    """Returns its row of `inference.py --check`."""
    name = str(getattr(options, "dino_model", None) or DINO_MODEL)
    names = "features", "dinov2", "dino_model"
    return [hub_status(*names, name, DINO_MODEL, MEGABYTES)]


def _patch_grid(size, long_side):
    """Returns patches (down, across), as near to the shape of frames as can be."""
    shrink = long_side / max(size)
    return max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink))


def _feature_maps(network, frames, grid, batch_size):
    """Yields maps [rows, columns, D] float16, one for each frame."""
    import torch

    patch = network.config.patch_size
    size = grid[0] * patch, grid[1] * patch
    # Before the patches stand one token for the frame and, in some models, registers.
    others = 1 + getattr(network.config, "num_register_tokens", 0)
    for batch in pixel_batches(frames, size, batch_size):
        with torch.inference_mode():
            batch = batch.to(network.device, network.dtype)
            tokens = network(pixel_values=batch).last_hidden_state[:, others:]
            tokens = tokens.reshape(len(batch), *grid, -1)
            tokens = tokens.to("cpu", torch.float16).numpy()
        yield from tokens
