"""Stereo4D (Jin et al., arXiv 2412.09621): stereo or VR180 video to 3D tracks.

From top to bottom, as a clip goes:

    run, steps          the command, and what it does; single_steps: as published
    parts               matchers and trackers by name (sea_raft, bootstapir)
    layouts, equirect   where the eyes' pictures lie, and directions in them
    rig, rectification  how the eyes are turned; raw pictures to rectified ones
    matching, flows     disparity, and its files
    queries             which points are tracked
    poses, odometry     the camera's path: of others' files, or from the clip
    lifting, classes    tracks into space, and which of them are dropped
    optimisation        depths along tracks; published: as the published code has it
    example             what train.py reads; annotations, convert: the released files
    simulated           stereo pictures of simulated scenes

Stands on `spa` (geometry, video, trackers, files, jobs), never the other way round, and
on nothing of `spa.realism`. Metres, OpenCV's axes, pixels with centres at +0.5
(docs/DESIGN.md).
"""
