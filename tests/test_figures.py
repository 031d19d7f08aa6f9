"""The widgets that explore: what a click leads to."""

from pathlib import Path

from mlimages.acquire.formats import DICTIONARY
from mlimages.acquire.hierarchy import read_tree
from mlimages.figures.explore import class_browser


def test_the_class_browser_goes_down_to_a_leaf_and_up_again(tiny_lists: Path, tmp_path: Path) -> None:
    tree = read_tree(tiny_lists / DICTIONARY)
    browser = class_browser(tiny_lists, tmp_path)
    path, (choice, _) = browser.children[0], browser.children[1].children
    assert [index for _, index in choice.options] == [index for index in range(len(tree)) if tree.parents[index] < 0]
    leaf = tree.depths.index(max(tree.depths))
    for index in [*reversed(tree.ancestors(leaf)), leaf]:
        choice.value = index
    assert path.value == " / ".join(tree.label(index) for index in [*reversed(tree.ancestors(leaf)), leaf])
    up = dict(choice.options)["(up)"]
    choice.value = up
    assert path.value.endswith(tree.label(up))
    choice.value = dict(choice.options)["(up)"]
    choice.value = dict(choice.options)["(up)"]
    assert path.value.count("/") == 0
