"""Initial parameters, against Flax's own."""

import jax
import numpy as np
from checkpoint_cases import assert_same, flattened, nested, small_3dspa

from spa.model import checkpoints

# One width everywhere: Flax compiles random numbers of each shape anew.
SAME_WIDTHS = {
    "track_token_dim": 64,
    "track_mlp_size": 64,
    "encoder_latent_dim": 64,
    "latent_mlp_size": 64,
    "decoder_num_channels": 64,
    "readout_mlp_size": 64,
    "qkv_size": 64,
    "readout": "cross",
}


def test_initial_parameters_are_distributed_as_the_modules_say():
    """Against Flax's own initialisation, array by array."""
    # Relative positions start small: a weight's size is not always its width's.
    model, _ = small_3dspa(**SAME_WIDTHS, use_depth=True, relative_positions=True)
    fast = flattened(checkpoints.init_params(model, 0))
    slow = flattened(
        jax.device_get(checkpoints.flax_params(model, jax.random.PRNGKey(0)))
    )
    assert fast.keys() == slow.keys()
    for name, expected in slow.items():
        found = fast[name]
        assert found.shape == expected.shape and found.dtype == np.float32
        if np.ptp(expected) == 0:
            np.testing.assert_array_equal(found, expected)
            continue
        deviation = np.std(expected)
        error = deviation * np.sqrt(2 / found.size)
        assert abs(np.std(found) - deviation) < 4 * error, name
        assert abs(np.mean(found)) < 5 * deviation / np.sqrt(found.size), name
        if name.endswith("kernel"):  # cut off at two deviations of the whole normal
            assert np.abs(found).max() < 1.1 * 2 / 0.88 * deviation, name
        assert len(np.unique(found)) > 0.99 * found.size


def test_initial_parameters_follow_the_seed():
    model, _ = small_3dspa()
    first = checkpoints.init_params(model, 3)
    assert_same(checkpoints.init_params(model, 3), flattened(first))
    other = flattened(checkpoints.init_params(model, 4))
    arrays = flattened(first)
    # Nor do two arrays of one shape share their numbers.
    kernels = [x for name, x in arrays.items() if name.endswith("kernel")]
    kernels += [x for name, x in other.items() if name.endswith("kernel")]
    assert len({x.tobytes() for x in kernels}) == len(kernels)


def test_initial_parameters_of_a_part_do_not_depend_on_the_rest():
    plain, _ = small_3dspa()
    more, _ = small_3dspa(use_depth=True, predict_error_scale=True)
    arrays = flattened(checkpoints.init_params(plain, 3))
    found = flattened(checkpoints.init_params(more, 3))
    assert arrays.keys() < found.keys()
    assert_same(nested({name: found[name] for name in arrays}), arrays)
