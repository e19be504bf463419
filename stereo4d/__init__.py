"""Stereo4D (Jin et al., arXiv 2412.09621): stereo or VR180 video to 3D tracks.

From top to bottom, as a clip goes:

    layouts         where the two eyes' pictures lie in a video
    equirect        directions and pixels of VR180 pictures; to perspective ones
    annotations     the released npz files: cameras, rig, tracks
    poses           cameras' poses from files of others
    optimisation    depths along tracks that agree with disparity, over time

Stands on `spa` (geometry, video, trackers, files, jobs), never the other way round, and
on nothing of `spa.realism`. Metres, OpenCV's axes, pixels with centres at +0.5
(docs/DESIGN.md).
"""
