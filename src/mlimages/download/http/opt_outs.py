"""X-Robots-Tag: whether a host asks that an image is not used."""

import re
from collections.abc import Iterable

OPT_OUTS = {"noai", "noimageai", "noindex", "noimageindex", "noml", "none"}
OURSELVES = {"*", "mlimages"}
# Directives that have a value of their own; any other name before a colon is that of a robot.
WITH_A_VALUE = {"max-snippet", "max-image-preview", "max-video-preview", "unavailable_after"}
ROBOT = re.compile(r"\s*([A-Za-z*][\w*.-]*)\s*:(.*)", re.DOTALL)


def opts_out(tags: Iterable[str]) -> bool:
    """Whether one of these headers has an opt-out for all robots, or for this one.

    A header such as `somebot: noindex, nofollow` is for that robot, up to the next robot's name.
    """
    for tag in tags:
        ours = True
        for directive in tag.split(","):
            robot = ROBOT.fullmatch(directive)
            if robot and robot[1].lower() not in WITH_A_VALUE:
                ours, directive = robot[1].lower() in OURSELVES, robot[2]
            if ours and directive.strip().lower() in OPT_OUTS:
                return True
    return False
