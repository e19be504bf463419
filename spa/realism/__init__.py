"""A clip's realism: what programs import.

>>> from spa.realism import score_video
>>> score_video("clip.mp4").realism
"""

from spa.realism.result import save_result
from spa.realism.scorer import score_video

__all__ = ["save_result", "score_video"]
