"""Pages of pictures with captions as HTML, and buttons to change the page."""

import base64
import html
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import ipywidgets

PER_PAGE = 12
STYLE = ("display:inline-block;width:190px;margin:4px;padding:4px;vertical-align:top;border:1px solid #ddd;"
         "font-size:12px;line-height:1.35;overflow-wrap:anywhere")


class CaptionLine(NamedTuple):
    """A line of a caption and its colour."""

    text: str
    colour: str = "inherit"


class PagePicture(NamedTuple):
    """A picture of a page: the bytes of its file, its caption, and its source, linked if it is a URL."""

    body: bytes
    caption: Sequence[CaptionLine]
    source: str = ""


def page_html(title: str, pictures: Sequence[PagePicture]) -> str:
    """A page of pictures, or a text if there are none."""
    figures = "".join(map(_figure, pictures)) or "<p>There are no such images.</p>"
    return f"<div><b>{html.escape(title)}</b><div>{figures}</div></div>"


def _figure(picture: PagePicture) -> str:
    text = ", ".join(line.text for line in picture.caption)
    encoded = base64.b64encode(picture.body).decode()
    lines = "".join(f'<div style="color:{line.colour}">{html.escape(line.text)}</div>' for line in picture.caption)
    source_line = html.escape(picture.source)
    if picture.source.startswith(("http://", "https://")):
        source_line = f'<a href="{source_line}" style="text-decoration:underline">{source_line}</a>'
    return (f'<figure style="{STYLE}"><img style="width:100%;min-height:120px;object-fit:contain" '
            f'alt="{html.escape(text)}" src="data:image/jpeg;base64,{encoded}">'
            f"<figcaption>{lines}{source_line}</figcaption></figure>")


class Pager:
    """Buttons that change the page. `show(first, last)` returns the HTML of the items `first` to `last` - 1."""

    def __init__(self, show: Callable[[int, int], str], per_page: int = PER_PAGE) -> None:
        self._show, self._per_page = show, per_page
        self._count, self._page = 0, 0
        self._text, self._shown = ipywidgets.HTML(), ipywidgets.HTML()
        buttons = [ipywidgets.Button(description=name, layout={"width": "9em"})
                   for name in ("previous page", "next page", "random page")]
        for button, page in zip(buttons, (lambda: self._page - 1, lambda: self._page + 1,
                                          lambda: random.randrange(self.pages)), strict=True):  # noqa: S311
            button.on_click(lambda _, page=page: self.go(page()))
        self.widget = ipywidgets.VBox([ipywidgets.HBox([*buttons, self._text]), self._shown])

    @property
    def pages(self) -> int:
        """The number of pages, at least 1."""
        return max(1, -(-self._count // self._per_page))

    @property
    def shown(self) -> str:
        """The HTML of the page that is shown."""
        return self._shown.value

    @property
    def position(self) -> str:
        """The number of the page, of all pages and of all items."""
        return self._text.value

    def reset(self, count: int) -> None:
        """Show the first page of `count` items."""
        self._count = count
        self.go(0)

    def go(self, page: int) -> None:
        """Show this page, the nearest one if there is no such page."""
        self._page = min(max(page, 0), self.pages - 1)
        first = self._page * self._per_page
        self._text.value = f"page {self._page + 1:,} of {self.pages:,} ({self._count:,} images)"
        self._shown.value = self._show(first, min(first + self._per_page, self._count))


def class_choice(names: Sequence[str], description: str = "class") -> Any:
    """A text field that completes the names of classes. Its `value` is one of `option_names`, or empty."""
    return ipywidgets.Combobox(options=option_names(names), description=description, ensure_option=True,
                               placeholder="type a part of a name", continuous_update=False, layout={"width": "26em"})


def option_names(names: Sequence[str]) -> list[str]:
    """The names of classes as options: each once, with the class' number at its end."""
    return [f"{name} [{index}]" for index, name in enumerate(names)]


def chosen_class(option: str) -> int | None:
    """The class of an option; None for an empty one."""
    return int(option.rpartition("[")[2].rstrip("]")) if option else None
