"""Interlaced frames to progressive ones, as many, by FFmpeg's filter bwdif."""

from collections.abc import Iterable, Iterator

import av


def deinterlaced(frames: Iterable[av.VideoFrame], time_base) -> Iterator[av.VideoFrame]:
    """Yields as many frames; those from the first on that is flagged as interlaced go
    through the filter, which leaves progressive ones among them as they are."""
    filters, layout = None, None
    for frame in frames:
        if filters is not None and _layout(frame) != layout:
            yield from _through(filters, None)
            filters = None
        if filters is None and frame.interlaced_frame:
            filters, layout = _filters(frame, time_base), _layout(frame)
        if filters is None:
            yield frame
        else:
            yield from _through(filters, frame)
    if filters is not None:
        yield from _through(filters, None)


def _layout(frame):
    colours = frame.colorspace, frame.color_range
    return frame.width, frame.height, frame.format.name, *colours


def _filters(frame, time_base):
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
    # A frame for each frame: one for each field would double the rate.
    filters = graph.add("bwdif", mode="send_frame", deint="interlaced")
    graph.link_nodes(source, filters, graph.add("buffersink"))
    graph.configure()
    return graph


def _through(graph, frame):
    graph.vpush(frame)
    while True:
        try:
            yield graph.vpull()
        except (av.BlockingIOError, av.EOFError):
            return
