"""The published step: tracks that drift are dropped: see single_steps.py."""

from stereo4d import single_steps

if __name__ == "__main__":
    single_steps.start(single_steps.drop_drift, "hfov", "segmentation")
