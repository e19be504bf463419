"""Interlaced frames to progressive ones, as many, by FFmpeg's filter bwdif."""

from collections.abc import Iterable, Iterator

import av


def deinterlaced(
    frames: Iterable[av.VideoFrame], time_base, order: str | None = None
) -> Iterator[av.VideoFrame]:
    """Yields as many frames, from the first interlaced one on through filters that find
    those whose fields differ (many that are flagged as interlaced show one instant) and
    deinterlace these. With an `order` of fields, "tff" or "bff", all are taken for
    flagged."""
    filters, layout = None, None
    for frame in frames:
        if filters is not None and _layout(frame) != layout:
            yield from _through(filters, None)
            filters = None
        if filters is None and (order or frame.interlaced_frame):
            filters, layout = _filters(frame, time_base, order), _layout(frame)
        if filters is None:
            yield frame
        else:
            yield from _through(filters, frame)
    if filters is not None:
        yield from _through(filters, None)


def _layout(frame):
    colours = frame.colorspace, frame.color_range
    return frame.width, frame.height, frame.format.name, *colours


def _filters(frame, time_base, order):
    graph = av.filter.Graph()
    graph.threads = 2  # more than these cost more than they bring
    source = graph.add(
        "buffer",
        video_size=f"{frame.width}x{frame.height}",
        pix_fmt=frame.format.name,
        time_base=str(time_base),
        colorspace=str(frame.colorspace),
        range=str(frame.color_range),
    )
    # Deinterlaced, a frame for each frame: one for each field would double the rate.
    names = [
        *([("setfield", {"mode": order})] if order else []),
        ("idet", {}),
        ("bwdif", {"mode": "send_frame", "deint": "interlaced"}),
        ("buffersink", {}),
    ]
    graph.link_nodes(source, *(graph.add(name, **how) for name, how in names))
    graph.configure()
    return graph


def shows_fields(frame: av.VideoFrame) -> bool:
    """Returns whether a frame that comes out was deinterlaced."""
    found = frame.metadata.get("lavfi.idet.multiple.current_frame")
    return found not in (None, "progressive")


def _through(graph, frame):
    graph.vpush(frame)
    while True:
        try:
            yield graph.vpull()
        except (av.BlockingIOError, av.EOFError):
            return
