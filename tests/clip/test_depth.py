"""Depth maps of a clip: relative, of a file, of nothing."""

import zipfile

import numpy as np
import pytest
from depth_cases import depth_by_formula, one_line, random_clip

from spa import geometry
from spa.clip import depth
from spa.clip.depth.maps import DepthModel, depth_maps, inverse_to_depth
from spa.errors import FrontEndError


@pytest.mark.parametrize("scale, shift", [(1, 0), (300, 20), (0.01, -5)])
def test_inverse_depth_is_depth_whatever_its_scale_and_shift(scale, shift):
    inverse = np.random.default_rng(0).uniform(0, 1, (5, 30, 40)) ** 2
    maps = (scale * inverse + shift).astype(np.float32)
    inverse_to_depth(maps)
    np.testing.assert_allclose(maps, depth_by_formula(inverse), rtol=1e-3)
    assert maps.min() == 1 and maps.max() == 10
    assert maps.flat[inverse.argmax()] == 1  # the largest is the nearest
    flat = np.full((2, 4, 5), 7, np.float16)  # says nothing
    inverse_to_depth(flat)
    assert (flat == 1).all()


def test_quantiles_of_large_maps_are_of_a_part_of_them(monkeypatch):
    inverse = np.random.default_rng(0).uniform(0, 1, (4, 200, 300))
    monkeypatch.setattr("spa.clip.depth.maps.QUANTILE_SAMPLES", 20000)
    maps = inverse.astype(np.float32)
    inverse_to_depth(maps)
    np.testing.assert_allclose(maps, depth_by_formula(inverse), rtol=0.05)


@pytest.mark.parametrize("scale, shift", [(1, 0), (1e-3, 3), (1e6, -1e7)])
def test_relative_maps_keep_their_precision_in_float16(scale, shift):
    inverse = np.random.default_rng(0).uniform(0, 1, (5, 30, 40))
    inverse[0] *= 0.1
    stored = scale * inverse + shift
    model = DepthModel("net", "relative", lambda *_: iter(stored))
    maps = depth_maps(random_clip(5, 30, 40), model)
    np.testing.assert_allclose(maps, depth_by_formula(inverse), rtol=0.03)


def test_a_network_that_fails_is_no_flat_world():
    nan = DepthModel("net", "relative", lambda *_: iter([np.full((4, 5), np.nan)]))
    with pytest.raises(FrontEndError, match="no numbers for frame 0"):
        depth_maps(random_clip(1, 8, 10), nan)


def test_no_depth_is_one_everywhere():
    model = depth.load_depth()
    clip = random_clip(3, 20, 30)
    maps = depth_maps(clip, model)
    tracks = np.random.default_rng(0).uniform(0, 20, (4, 3, 2))
    assert model.kind == model.name == "none"
    assert (geometry.sample_frames(maps, tracks, (20, 30)) == 1).all()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("name", ["depth", "depths", "z"])
def test_given_maps_are_taken_as_they_are(tmp_path, save, name):
    """Those of the whole file for a part of it, too."""
    given = np.random.default_rng(0).uniform(0.5, 60, (9, 12, 18)).astype(np.float32)
    others = {} if name == "z" else {"fov": np.ones(3)}
    save(tmp_path / "d.npz", **{name: given}, **others)
    model = depth.load_depth(tmp_path / "d.npz")
    maps = depth_maps(random_clip(9, 120, 180), model)
    assert model.kind == "given" and maps.dtype == np.float16
    np.testing.assert_allclose(maps, given, rtol=1e-3)
    part = depth_maps(random_clip(3, 120, 180), model, np.array([2, 4, 6]))
    np.testing.assert_array_equal(part, maps[[2, 4, 6]])


def test_what_is_unknown_in_given_maps_is_the_median(tmp_path):
    given = np.full((1, 4, 5), 3.0)
    given[0, 0] = [0, -1, np.nan, np.inf, 7]
    np.savez(tmp_path / "d.npz", depth=given)
    maps = depth_maps(random_clip(1, 8, 10), depth.load_depth(tmp_path / "d.npz"))
    np.testing.assert_array_equal(maps[0, 0], [3, 3, 3, 3, 7])
    np.savez(tmp_path / "d.npz", depth=np.zeros((1, 4, 5)))
    with pytest.raises(FrontEndError, match="map 0 .* no positive depth"):
        depth_maps(random_clip(1, 8, 10), depth.load_depth(tmp_path / "d.npz"))


def test_given_maps_of_any_unit_keep_it(tmp_path):
    """Also those that float16 cannot hold, and with an axis for a channel."""
    given = np.random.default_rng(0).uniform(1, 5, (3, 12, 18))
    for unit in (1e-5, 1.0, 1e5):
        for stored in (given, given[..., None], given[:, None]):
            np.savez(tmp_path / "d.npz", depth=unit * stored)
            model = depth.load_depth(tmp_path / "d.npz")
            maps = depth_maps(random_clip(3, 120, 180), model)
            np.testing.assert_allclose(maps, unit * given, rtol=1e-3)
    for value in (1e-30, 1e30, 1e8):
        given[1, 2, 3] = value
        np.savez(tmp_path / "d.npz", depth=given)
        model = depth.load_depth(tmp_path / "d.npz")
        message = r"map 1 of depth in .*d.npz\[2, 3\] is 1e.*where there is nothing"
        with pytest.raises(FrontEndError, match=message) as error:
            depth_maps(random_clip(3, 120, 180), model)
        one_line(error)


def test_large_maps_are_reduced_by_area(tmp_path):
    given = np.random.default_rng(0).uniform(1, 2, (1, 300, 1024)).astype(np.float32)
    np.savez(tmp_path / "d.npz", depth=given)
    maps = depth_maps(random_clip(1, 30, 102), depth.load_depth(tmp_path / "d.npz"))
    halved = given.reshape(1, 150, 2, 512, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(maps, halved, rtol=1e-3)


def test_given_maps_that_do_not_fit_are_refused(tmp_path):
    for arrays, message in (
        ({"depth": np.ones((3, 12, 18))}, "of 3 frames, the clip has 4: give"),
        ({"depth": np.ones((4, 18, 12))}, "maps of 12x18, frames are 180x120"),
        ({"depth": np.ones((4, 12))}, r"is float64 \[4, 12\], need numbers"),
        ({"depth": np.full((4, 12, 18), "a")}, "need numbers"),
        ({"depth": np.asfortranarray(np.ones((4, 12, 18)))}, "in Fortran order: store"),
        ({"a": np.ones(2), "b": np.ones(2)}, "arrays a, b: call that of the"),
    ):
        np.savez(tmp_path / "d.npz", **arrays)
        with pytest.raises(FrontEndError, match=message) as error:
            model = depth.load_depth(tmp_path / "d.npz")
            depth_maps(random_clip(4, 120, 180), model, np.arange(4))
        one_line(error)


def test_files_without_maps_are_refused(tmp_path):
    path = tmp_path / "d.npz"

    def refused(message):
        with pytest.raises(FrontEndError, match=message) as error:
            depth.load_depth(path)
        assert str(path) in one_line(error)

    refused("no such file of depth maps")
    path.write_bytes(b"depth")
    refused("no .npz that can be read")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("depth", b"1")  # without its ending
    refused("no .npz that can be read")


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def cut_the_array_short(path):
    with zipfile.ZipFile(path) as archive:
        data = archive.read("depth.npy")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("depth.npy", data[:-1000])


def test_damaged_maps_are_said_in_one_line(tmp_path):
    for save, damage in (
        (np.savez, flip_a_byte),
        (np.savez_compressed, flip_a_byte),
        (np.savez, cut_the_array_short),
    ):
        path = tmp_path / "d.npz"
        maps = np.random.default_rng(0).uniform(1, 2, (4, 120, 180)).astype(np.float32)
        save(path, depth=maps)
        damage(path)
        with pytest.raises(FrontEndError, match="damaged") as error:
            depth_maps(random_clip(4, 120, 180), depth.load_depth(path))
        assert str(path) in one_line(error)
