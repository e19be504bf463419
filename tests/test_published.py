"""What programs of users take from the published modules is there."""

import importlib

import pytest

NAMES = {
    "attention": "ImprovedTransformer LayerNorm Linear",
    "checkpointing": "CheckpointError describe find_mismatches flatten init_params "
    "load_checkpoint read_arrays read_checkpoint save_checkpoint unflatten",
    "data_loader": "Augmentation DatasetError ScenePool augment_example dataset_size "
    "load_dataset load_examples load_kubric3d_dataset load_npz_dataset "
    "load_synthetic_dataset load_tapvid3d_dataset load_tapvid_dataset "
    "prepare_2d_batch prepare_3d_batch",
    "track_autoencoder": "JointReadout MINI ModelConfig PRESETS ParamStateInit "
    "TrackAutoEncoder TrackAutoEncoderDecoderContext TrackAutoEncoderResults "
    "check_batch model_config sinusoidal_embedding",
    "track_autoencoder_3d": "TrackAutoEncoder3D make_model",
    "visualize": "VisualizeError check_scores colours_bgr is_in_frame "
    "load_visualization_data normalize_scores paint_frames "
    "paint_point_track_with_colors plot_scores prepare_video_for_visualization "
    "project_3d_to_2d project_all_tracks score_to_color_bgr video_of_result "
    "worst_tracks write_png",
}


@pytest.mark.parametrize("module", NAMES)
def test_published_names_are_there(module):
    found = vars(importlib.import_module(module))
    assert not set(NAMES[module].split()) - set(found)
