"""Scores how real the motion in a video is, or in many: see spa/command.py."""

from spa.command import run_script

if __name__ == "__main__":
    run_script()
