"""Tables as people have them, in excerpts that are written by hand in their formats."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb

from mlimages.acquire.formats import DICTIONARY
from mlimages.acquire.hierarchy import read_tree

IMAGES = """\
ImageID,Subset,OriginalURL,OriginalLandingURL,License,AuthorProfileURL,Author,Title,OriginalSize,OriginalMD5,\
Thumbnail300KURL,Rotation
00000000000000a1,train,https://farm1.example/1_o.jpg,https://photos.example/1,https://license.example/by/2.0/,\
https://photos.example/ann,"Ann, A.",A cat,211079,0Sad+xMj2ttXM1U8meEJ0A==,https://c1.example/1_z.jpg,0.0
00000000000000a2,train,https://farm1.example/2_o.jpg,https://photos.example/2,https://license.example/by/2.0/,\
https://photos.example/ben,Ben,"""+'"A ""tree"""'+""",123456,lIMrwp9SDPA8QOMLcDLHNw==,,
00000000000000a3,validation,https://farm2.example/3_o.jpg,https://photos.example/3,https://license.example/by/2.0/,\
https://photos.example/cleo,Cleo,,9876,aIMrwp9SDPA8QOMLcDLHNw==,,90.0
00000000000000a4,test,https://farm2.example/4_o.jpg,https://photos.example/4,https://license.example/by/2.0/,\
https://photos.example/dan,Dan,,9876,bIMrwp9SDPA8QOMLcDLHNw==,,
"""
HUMAN = """\
ImageID,Source,LabelName,Confidence
00000000000000a1,verification,/m/01yrx,1
00000000000000a1,verification,/m/0bt9lr,0
00000000000000a2,crowdsource-verification,/m/07j7r,1
00000000000000a3,verification,/m/01yrx,1
00000000000000a4,verification,/m/01yrx,1
"""
MACHINE = """\
ImageID,Source,LabelName,Confidence
00000000000000a1,machine,/m/0bt9lr,0.9
00000000000000a1,machine,/m/0jbk,0.8
00000000000000a2,machine,/m/07j7r,0.6
"""
DESCRIPTIONS = """\
LabelName,DisplayName
/m/01yrx,Cat
/m/0bt9lr,Dog
/m/07j7r,Tree
/m/0jbk,Animal
/m/0138tl,"Toy, stuffed"
"""
HIERARCHY = {"LabelName": "/m/0bl9f", "Subcategory": [
    {"LabelName": "/m/0138tl"}, {"LabelName": "/m/07j7r", "Part": [{"LabelName": "/m/0jbk"}]},
    {"LabelName": "/m/0jbk", "Subcategory": [{"LabelName": "/m/01yrx"}, {"LabelName": "/m/0bt9lr"}]}]}
OPEN_IMAGES = """
    SELECT OriginalURL AS image, LabelName AS labels, Confidence AS confidence, Subset AS part
    FROM 'images.csv' JOIN (
      SELECT ImageID, LabelName, Confidence FROM 'human.csv'
      UNION ALL
      SELECT ImageID, LabelName, Confidence FROM 'machine.csv' ANTI JOIN 'human.csv' USING (ImageID, LabelName)
    ) USING (ImageID)
"""


def test_open_images(tables: Path, acquired: Callable[..., Any], tmp_path: Path) -> None:
    for name, content in (("images.csv", IMAGES), ("human.csv", HUMAN), ("machine.csv", MACHINE),
                          ("descriptions.csv", DESCRIPTIONS), ("hierarchy.json", json.dumps(HIERARCHY))):
        (tables / name).write_text(content)
    lists = acquired("images.csv", "human.csv", "machine.csv", query=OPEN_IMAGES, part="part", confidence="confidence",
                     classes=["descriptions.csv", "hierarchy.json"])
    assert lists == {"train": {"https://farm1.example/1_o.jpg": {"/m/01yrx": 1, "/m/0jbk": 0.8},
                               "https://farm1.example/2_o.jpg": {"/m/07j7r": 1}},
                     "val": {"https://farm2.example/3_o.jpg": {"/m/01yrx": 1}}}
    tree = read_tree(tmp_path / "lists" / DICTIONARY)
    parents = {name: tree.names[parent] if parent >= 0 else ""
               for name, parent in zip(tree.names, tree.parents, strict=True)}
    assert parents == {"Cat": "Animal", "Dog": "Animal", "Tree": "/m/0bl9f", "Animal": "/m/0bl9f",
                       "Toy, stuffed": "/m/0bl9f", "/m/0bl9f": ""}


def test_parquet_as_img2dataset_reads_and_writes_it(tables: Path, acquired: Callable[..., Any]) -> None:
    rows = ", ".join(f"('https://a.example/{number}.jpg', 'a photo, of a cat', ['cat', 'grey'], '{number:09}', "
                     f"'success', NULL, 300, 200, repeat('0', 64))" for number in range(8))
    duckdb.sql(f"COPY (FROM (VALUES {rows}) t(url, caption, labels, key, status, error_message, width, height, "  # noqa: S608 - it is ours
               f"sha256)) TO 'part-00000.snappy.parquet'")
    lists = acquired("*.parquet")
    assert {**lists["train"], **lists["val"]} == {f"https://a.example/{number}.jpg": {"cat": 1, "grey": 1}
                                                  for number in range(8)}


def test_csv_with_labels_between_spaces(tables: Path, acquired: Callable[..., Any]) -> None:
    (tables / "tags.csv").write_text("image_url,tags\n" + "".join(f"https://a.example/{number}.jpg,a b  c\n"
                                                                  for number in range(8)))
    lists = acquired("tags.csv", separator=" ")
    assert {**lists["train"], **lists["val"]} == {f"https://a.example/{number}.jpg": {"a": 1, "b": 1, "c": 1}
                                                  for number in range(8)}


def test_the_metadata_of_a_folder_of_pictures(tables: Path, acquired: Callable[..., Any]) -> None:
    labels = ["cat", "dog"] * 4
    (tables / "metadata.csv").write_text("file_name,label\n" + "".join(f"train/{number:04}.png,{label}\n"
                                                                       for number, label in enumerate(labels)))
    lists = acquired("metadata.csv")
    assert {**lists["train"], **lists["val"]} == {f"file:train/{number:04}.png": {label: 1}
                                                  for number, label in enumerate(labels)}
