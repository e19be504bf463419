"""The published step: points followed in the left picture: see single_steps.py."""

from stereo4d import single_steps

if __name__ == "__main__":
    single_steps.start(single_steps.track, "tapir")
