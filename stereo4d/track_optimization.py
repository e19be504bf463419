"""The published step: depths along tracks, over time: see single_steps.py."""

from stereo4d import single_steps

if __name__ == "__main__":
    single_steps.start(single_steps.optimise, "hfov", "objective")
