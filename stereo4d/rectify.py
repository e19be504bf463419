"""The published step: a clip's video to rectified pictures: see single_steps.py."""

from stereo4d import single_steps

if __name__ == "__main__":
    single_steps.start(single_steps.rectify, "raw_video_folder", "output_hfov")
