"""Scored points on video frames, and scores over time, under their published names.

>>> data = visualize.load_visualization_data("result_with_scores.npz")
>>> frames = visualize.prepare_video_for_visualization(data["video"])
>>> tracks = visualize.project_all_tracks(data["coords"], ...)
>>> painted = visualize.paint_point_track_with_colors(frames, tracks, ...)
"""

from spa.errors import VisualizeError
from spa.view.drawing import (
    draw_result,
    is_in_frame,
    paint_frames,
    paint_point_track_with_colors,
    project_3d_to_2d,
    project_all_tracks,
    write_png,
)
from spa.view.plots import plot_scores
from spa.view.results import load_visualization_data, prepare_video_for_visualization
from spa.view.scores import (
    check_scores,
    colours_bgr,
    normalize_scores,
    score_to_color_bgr,
    worst_tracks,
)

video_of_result = draw_result  # its earlier name

__all__ = [
    "VisualizeError",
    "check_scores",
    "colours_bgr",
    "draw_result",
    "is_in_frame",
    "load_visualization_data",
    "normalize_scores",
    "paint_frames",
    "paint_point_track_with_colors",
    "plot_scores",
    "prepare_video_for_visualization",
    "project_3d_to_2d",
    "project_all_tracks",
    "score_to_color_bgr",
    "video_of_result",
    "worst_tracks",
    "write_png",
]
