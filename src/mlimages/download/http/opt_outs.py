"""X-Robots-Tag: whether a host asks not to use an image."""

import re
from collections.abc import Iterable

OPT_OUTS = {"noai", "noimageai", "noindex", "noimageindex", "noml", "none"}
OURSELVES = {"*", "mlimages"}
# Directives with a value. Any other name before a colon is the name of a robot.
WITH_A_VALUE = {"max-snippet", "max-image-preview", "max-video-preview", "unavailable_after"}
ROBOT = re.compile(r"\s*([A-Za-z*][\w*.-]*)\s*:(.*)", re.DOTALL)


def opts_out(tags: Iterable[str]) -> bool:
    """Whether one of these header values contains an opt-out for all robots or for this one.

    In `somebot: noindex, nofollow` the directives are for that robot, up to the next robot's name.
    """
    for tag in tags:
        for_us = True
        for directive in tag.split(","):
            robot = ROBOT.fullmatch(directive)
            if robot and robot[1].lower() not in WITH_A_VALUE:
                for_us, directive = robot[1].lower() in OURSELVES, robot[2]
            if for_us and directive.strip().lower() in OPT_OUTS:
                return True
    return False
