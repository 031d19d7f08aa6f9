"""Classes, features and heat maps of pictures by a small network that is published as train publishes one."""

import io
import tarfile
from pathlib import Path
from typing import Any

import cv2
import duckdb
import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mlimages.core.errors import UserError
from mlimages.inputs.pictures import PictureLike
from mlimages.inputs.preprocess import evaluation_image
from mlimages.network.classifier import Classifier, main
from mlimages.network.load_model import load_model
from mlimages.network.load_weights import released_name
from mlimages.network.model_files import ClassTable, Preprocessing
from mlimages.network.resnet import resnet

NAMES = ["tench, Tinca tinca", "goldfish", "tabby, tabby cat", "tiger", "lynx", "fox"]
PIXELS = 32


def jpeg(seed: int, size: tuple[int, int] = (60, 44)) -> bytes:
    """A JPEG of smooth noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(noise).resize(size, Image.Resampling.BILINEAR).save(data, "JPEG", quality=95)
    return data.getvalue()


def network() -> keras.Model:
    keras.utils.set_random_seed(1)
    model = resnet((1, 1), len(NAMES), width=8, stock=True)
    generator = np.random.default_rng(0)
    model.get_layer("logits").bias.assign(generator.normal(size=len(NAMES)))
    return model


def publish(folder: Path, model: keras.Model, crop: str = "central", activation: str = "sigmoid") -> Path:
    folder.mkdir()
    model.save(folder / "model.keras")
    ClassTable([f"n{number:08d}" for number in range(len(NAMES))], [-1] * len(NAMES), NAMES).write(folder)
    Preprocessing(PIXELS, crop, 0.8, activation).write(folder)  # type: ignore[arg-type]
    return folder


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return network()


@pytest.fixture(scope="module")
def folder(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(tmp_path_factory.mktemp("published") / "model", model)


@pytest.fixture(scope="module")
def classifier(folder: Path) -> Classifier:
    return Classifier(folder)


def expected(model: keras.Model, body: bytes) -> np.ndarray:
    """The probabilities as evaluate computes them."""
    square = evaluation_image(body, pixels=PIXELS, preprocessing="central", central_fraction=0.8)
    return tf.sigmoid(model(square[None], training=False)).numpy()[0]


def test_the_likeliest_classes_are_those_that_evaluate_finds(model: keras.Model, classifier: Classifier,
                                                             tmp_path: Path) -> None:
    bodies = [jpeg(seed) for seed in range(3)]
    (tmp_path / "cat.jpg").write_bytes(bodies[0])
    found = classifier.predict([tmp_path / "cat.jpg", bodies[1], Image.open(io.BytesIO(bodies[2]))], top=3)
    assert list(found.columns) == ["image", "rank", "class", "name", "probability"]
    assert found["image"].tolist() == [str(tmp_path / "cat.jpg")] * 3 + ["1"] * 3 + ["2"] * 3
    assert found["rank"].tolist() == [1, 2, 3] * 3
    for number, body in enumerate(bodies[:2]):
        scores = expected(model, body)
        rows = found.iloc[3 * number: 3 * number + 3]
        assert rows["class"].tolist() == np.argsort(-scores)[:3].tolist()
        assert rows["name"].tolist() == [NAMES[index].split(",")[0] for index in rows["class"]]
        np.testing.assert_allclose(rows["probability"], np.sort(scores)[::-1][:3], rtol=1e-5)


def test_every_way_to_pass_a_picture_gives_the_same(classifier: Classifier, tmp_path: Path) -> None:
    pixels = np.asarray(Image.open(io.BytesIO(jpeg(0))))
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    (tmp_path / "picture.png").write_bytes(data.getvalue())
    ways: list[PictureLike] = [pixels, data.getvalue(), Image.fromarray(pixels), tmp_path / "picture.png",
                               str(tmp_path / "picture.png")]
    features = classifier.features(ways)
    assert features.shape == (5, 64) and features.dtype == np.float32
    np.testing.assert_array_equal(features, np.broadcast_to(features[0], features.shape))
    grey = classifier.features([pixels[..., 0], np.repeat(pixels[..., :1], 3, axis=2)])
    np.testing.assert_array_equal(grey[0], grey[1])


def test_features_are_what_the_logits_are_computed_from(model: keras.Model, classifier: Classifier) -> None:
    body = jpeg(1)
    kernel, bias = (weight.numpy() for weight in model.get_layer("logits").weights)
    scores = tf.sigmoid(classifier.features([body])[0] @ kernel + bias)
    np.testing.assert_allclose(scores, expected(model, body), rtol=1e-5)


def test_batches_do_not_change_what_is_found(folder: Path) -> None:
    bodies = [jpeg(seed) for seed in range(5)]
    one, many = (Classifier(folder, batch=batch).predict(bodies, top=6) for batch in (1, 4))
    np.testing.assert_allclose(one["probability"], many["probability"], rtol=1e-5)
    assert one["class"].tolist() == many["class"].tolist()


def test_the_shorter_side_is_resized_as_the_released_scripts_do(model: keras.Model, tmp_path: Path) -> None:
    folder = publish(tmp_path / "model", model, crop="shorter_side")
    pixels = np.asarray(Image.open(io.BytesIO(jpeg(2, (90, 61)))))
    side = round(PIXELS * 8 / 7)
    height, width = pixels.shape[:2]
    new_height, new_width = (side / min(height, width) * length for length in (height, width))
    resized = cv2.resize(pixels, (int(new_width), int(new_height)))
    top, left = int((new_height - PIXELS) / 2), int((new_width - PIXELS) / 2)
    square = (resized[top: top + PIXELS, left: left + PIXELS] / 255.0 - 0.5) * 2
    scores = tf.sigmoid(model(square[None].astype(np.float32))).numpy()[0]
    np.testing.assert_allclose(Classifier(folder).predict([pixels], top=6).sort_values("class")["probability"], scores,
                               rtol=1e-5)


def test_ten_crops_are_the_mean_of_centre_and_corners_and_their_mirror_images(model: keras.Model, folder: Path) -> None:
    pixels = np.asarray(Image.open(io.BytesIO(jpeg(3, (80, 50)))))
    resized = cv2.resize(pixels, (80 * 37 // 50, 37))
    width = resized.shape[1]
    corners = [(2, (width - 32) // 2), (0, 0), (0, width - 32), (5, 0), (5, width - 32)]
    squares = [resized[top: top + 32, left: left + 32] for top, left in corners]
    squares += [square[:, ::-1] for square in squares]
    batch = np.array(squares, np.float32) / 127.5 - 1
    scores = tf.sigmoid(model(batch)).numpy().mean(axis=0)
    found = Classifier(folder, crop="ten_crops").predict([pixels], top=6).sort_values("class")["probability"]
    np.testing.assert_allclose(found, scores, rtol=1e-5)


def test_a_heat_map_is_where_the_class_gets_its_evidence(classifier: Classifier) -> None:
    body = jpeg(4, (90, 60))
    heat = classifier.heatmap(body, "tabby cat")
    assert heat.shape == (60, 90) and heat.dtype == np.float32
    assert heat.min() >= 0 and heat.max() <= 1
    assert not heat[:6].any() and not heat[-6:].any() and not heat[:, :9].any() and not heat[:, -9:].any()


def assert_the_map_is_where_the_picture_is_red(images: Any, features: Any) -> None:
    """The only class of the network is the first feature, the red channel."""
    logits = keras.layers.Dense(1, use_bias=False, name="logits")
    model = keras.Model(images, logits(features))
    logits.set_weights([np.array([[1.0], [0.0], [0.0]], np.float32)])
    classifier = Classifier(model, classes=ClassTable([""], [-1], ["red"]),
                            preprocessing=Preprocessing(PIXELS, "central", 1.0, "sigmoid"))
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[8:24, 40:56, 0] = 255
    heat = classifier.heatmap(picture, "red")
    assert heat[12:20, 44:52].min() > 0.9
    assert heat[40:, :].max() == 0


def test_a_heat_map_points_at_what_the_network_looks_for() -> None:
    """A network whose only class is the red channel: the map is where the picture is red."""
    images = keras.Input((None, None, 3))
    maps = keras.layers.AveragePooling2D(4)(images)
    features = keras.layers.GlobalAveragePooling2D(name="features")(maps)
    assert_the_map_is_where_the_picture_is_red(images, features)


@pytest.mark.parametrize("pixels, is_last", [(64, True), (32, False)])
def test_a_heat_map_of_the_last_stage_is_the_class_activation_map_and_small_pictures_use_an_earlier_one(
        model: keras.Model, pixels: int, is_last: bool) -> None:
    classifier = Classifier(model, classes=ClassTable([""] * len(NAMES), [-1] * len(NAMES), NAMES),
                            preprocessing=Preprocessing(pixels, "central", 1.0, "sigmoid"))
    bodies = [jpeg(seed) for seed in range(3)]
    squares = np.stack([evaluation_image(body, pixels=pixels, preprocessing="central", central_fraction=1.0)
                        for body in bodies])
    maps = keras.Model(model.inputs[0], model.get_layer("features").input)(squares, training=False).numpy()
    evidence = maps @ model.get_layer("logits").kernel.numpy()
    classes = evidence.mean(axis=(1, 2)).argmax(axis=1).tolist()  # of positive evidence
    heats = classifier.heatmaps(bodies, classes)
    for number, (body, index) in enumerate(zip(bodies, classes, strict=True)):
        expected = np.maximum(evidence[number, ..., index], 0)
        expected = cv2.resize(expected / expected.max(), (60, 44)).clip(0, 1)
        assert np.allclose(heats[number], expected, atol=1e-4) == is_last
        np.testing.assert_allclose(classifier.heatmap(body, index), heats[number], atol=1e-4)


def test_a_heat_map_of_an_early_stage_points_at_what_changes_the_logits() -> None:
    """The first stage passes on the red channel, the second one averages it: the map is that of the first."""
    images = keras.Input((None, None, 3))
    first = keras.layers.AveragePooling2D(4)(images)
    normal = keras.layers.BatchNormalization(epsilon=0.0, name="stages_1_block_0_conv1_b2_bn")(first)
    named = keras.layers.ReLU(name="stages_0_block_0_relu")(normal)
    maps = keras.layers.AveragePooling2D(8)(named)
    features = keras.layers.GlobalAveragePooling2D(name="features")(maps)
    assert_the_map_is_where_the_picture_is_red(images, features)


@pytest.mark.parametrize("name, index", [("tench", 0), ("Tinca tinca", 0), ("n00000003", 3), (4, 4), ("GOLDFISH", 1)])
def test_a_class_is_found_by_name_id_or_number(classifier: Classifier, name: str | int, index: int) -> None:
    assert classifier.classes.find(name) == index


@pytest.mark.parametrize("name, said", [("tabi", "no class is called 'tabi'; the nearest are tabby"),
                                        (6, "class 6 does not exist; expected 0 to 5")])
def test_an_unknown_class_is_refused_with_the_nearest_names(classifier: Classifier, name: str | int, said: str) -> None:
    with pytest.raises(UserError) as error:
        classifier.heatmap(jpeg(0), name)
    assert said in str(error.value)


def test_a_picture_that_cannot_be_read_is_named(classifier: Classifier, tmp_path: Path) -> None:
    (tmp_path / "page.jpg").write_bytes(b"<html>gone</html>")
    with pytest.raises(UserError, match=r"page\.jpg: not_image: HTML"):
        classifier.predict([tmp_path / "page.jpg"])
    with pytest.raises(UserError, match="expected a list of pictures"):
        classifier.predict("cat.jpg")
    with pytest.raises(UserError, match=r"0: found an array float64 \[4, 4, 3\], expected uint8"):
        classifier.predict([np.zeros((4, 4, 3))])


@pytest.mark.parametrize("kind", ["one pixel", "cmyk", "16 bit", "animated"])
def test_odd_pictures_are_read(classifier: Classifier, kind: str) -> None:
    data = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (40, 30, 4), np.uint8)
    if kind == "one pixel":
        Image.fromarray(noise[:1, :1, :3]).save(data, "PNG")
    elif kind == "cmyk":
        Image.fromarray(noise, "CMYK").save(data, "JPEG")
    elif kind == "16 bit":
        Image.fromarray(noise[..., 0].astype(np.uint16) * 257).save(data, "PNG")
    else:
        Image.fromarray(noise[..., :3]).save(data, "GIF", save_all=True, append_images=[Image.new("RGB", (30, 40))])
    assert len(classifier.predict([data.getvalue()], top=2)) == 2


def test_the_command_reads_files_folders_patterns_and_tar_files(folder: Path, tmp_path: Path,
                                                                capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pictures/inner").mkdir(parents=True)
    for number, name in enumerate(["b.jpg", "a.JPEG", "inner/c.jpg"]):
        (tmp_path / "pictures" / name).write_bytes(jpeg(number))
    (tmp_path / "pictures/notes.txt").write_text("no picture")
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for name, body in (("one.jpg", jpeg(7)), ("one.json", b"{}"), ("two.jpg", b"broken")):
            member = tarfile.TarInfo(name)
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
    places = [str(tmp_path / "pictures"), str(tmp_path / "pictures/[ab].*"), str(tmp_path / "shard.tar")]
    code = main([*places, "--model", str(folder), "--top", "2", "--csv", str(tmp_path / "out.csv"),
                 "--features", str(tmp_path / "out.npy")])
    said = capsys.readouterr()
    assert code == 1
    assert f"{tmp_path}/shard.tar/two.jpg: not_image" in said.err and "1 pictures could not be read" in said.err
    rows = [line.split(",") for line in (tmp_path / "out.csv").read_text().splitlines()]
    assert rows[0] == ["image", "rank", "class", "name", "probability"]
    names = [f"{tmp_path}/pictures/{name}" for name in ("a.JPEG", "b.jpg", "inner/c.jpg", "a.JPEG", "b.jpg")]
    names.append(f"{tmp_path}/shard.tar/one.jpg")
    assert [row[0] for row in rows[1:]] == [name for name in names for _ in range(2)]
    features = np.load(tmp_path / "out.npy")
    assert features.shape == (6, 64) and features.dtype == np.float32
    assert (tmp_path / "out.npy.images.txt").read_text().splitlines() == names
    np.testing.assert_allclose(features, Classifier(folder).features(
        [*(tmp_path / "pictures" / name for name in ("a.JPEG", "b.jpg", "inner/c.jpg", "a.JPEG", "b.jpg")), jpeg(7)]),
        rtol=1e-5)


def test_features_become_a_parquet_file_in_parts(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlimages.network.feature_files.PARQUET_ROWS", 3)
    places = [tmp_path / f"{number}'s.jpg" for number in range(5)]
    for number, place in enumerate(places):
        place.write_bytes(jpeg(number))
    (tmp_path / "2's.jpg").write_bytes(b"broken")
    out = tmp_path / "it's features.parquet"
    assert main([*map(str, places), "--model", str(folder), "--csv", str(tmp_path / "out.csv"), "--features",
                 str(out)]) == 1
    readable = [place for number, place in enumerate(places) if number != 2]
    rows = duckdb.read_parquet(str(out).replace("'", "?"))
    assert dict(zip(rows.columns, map(str, rows.types), strict=True)) == {"image": "VARCHAR", "features": "FLOAT[]"}
    images, features = zip(*rows.fetchall(), strict=True)
    assert images == tuple(map(str, readable))
    np.testing.assert_allclose(np.array(features, np.float32), Classifier(folder).features(readable), rtol=1e-5)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_an_unknown_kind_of_feature_file_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["picture.jpg", "--model", str(folder), "--features", "features.csv"]) == 2
    assert "--features is features.csv, expected a name that ends with .npy or .parquet" in capsys.readouterr().err


def test_the_command_prints_the_classes(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cat.jpg").write_bytes(jpeg(0))
    assert main([str(tmp_path / "cat.jpg"), "--model", str(folder), "--top", "1"]) == 0
    head, row = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert head == ["image", "rank", "class", "name", "probability"]
    assert row[:2] == [str(tmp_path / "cat.jpg"), "1"] and NAMES[int(row[2])].startswith(row[3])


def damaged(folder: Path, tmp_path: Path, kind: str) -> list[str]:
    """The arguments of the command with one thing wrong."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    picture = tmp_path / "cat.jpg"
    picture.write_bytes(jpeg(0))
    arguments = [str(picture), "--model", str(copy)]
    if kind == "no class names":
        (copy / "classes.csv").unlink()
    elif kind == "other classes":
        ClassTable(["", ""], [-1, -1], ["cat", "dog"]).write(copy)
    elif kind == "damaged class names":
        (copy / "classes.csv").write_text("class,name\n1,cat\n")
    elif kind == "no preprocessing":
        (copy / "preprocessing.json").unlink()
    elif kind == "damaged preprocessing":
        (copy / "preprocessing.json").write_text('{"pixels": 0}')
    elif kind == "damaged network":
        (copy / "model.keras").write_bytes((copy / "model.keras").read_bytes()[:5000])
    elif kind == "no network":
        arguments[2] = str(tmp_path / "nowhere")
    elif kind == "no picture":
        arguments[0] = str(tmp_path / "nothing.jpg")
    elif kind == "empty folder":
        (tmp_path / "empty").mkdir()
        arguments[0] = str(tmp_path / "empty")
    elif kind == "top":
        arguments += ["--top", "0"]
    return arguments


@pytest.mark.parametrize("kind, said", [
    ("no class names", "has no class names"), ("other classes", "the network has 6 classes, but 2 are named"),
    ("damaged class names", "classes.csv, line 2: found class '1'"),
    ("no preprocessing", "no preprocessing.json lies beside it"),
    ("damaged preprocessing", "preprocessing.json is damaged"),
    ("damaged network", "model.keras is no network that can be loaded"),
    ("no network", "nowhere is missing; run `dvc repro train`"), ("no picture", "nothing.jpg does not exist"),
    ("empty folder", "empty holds no pictures"), ("top", "--top is 0, expected at least 1")])
def test_bad_input_is_one_clear_line(folder: Path, tmp_path: Path, kind: str, said: str,
                                     capsys: pytest.CaptureFixture[str]) -> None:
    assert main(damaged(folder, tmp_path, kind)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ERROR")]
    assert len(lines) == 1 and said in lines[0]


def test_a_saved_model_gives_classes_but_no_features(model: keras.Model, folder: Path, tmp_path: Path) -> None:
    other = publish(tmp_path / "model", model)
    (other / "model.keras").unlink()
    model.export(other / "saved_model", verbose=False)
    classifier = Classifier(other / "saved_model")
    np.testing.assert_allclose(classifier.predict([jpeg(0)], top=6)["probability"],
                               Classifier(folder).predict([jpeg(0)], top=6)["probability"], rtol=1e-5)
    with pytest.raises(UserError, match="found a SavedModel"):
        classifier.features([jpeg(0)])


def test_a_network_of_another_kind_has_no_features(tmp_path: Path) -> None:
    plain = keras.Sequential([keras.Input((PIXELS, PIXELS, 3)), keras.layers.Flatten(), keras.layers.Dense(6)])
    with pytest.raises(UserError, match="has no layer `features`"):
        Classifier(publish(tmp_path / "model", plain)).features([jpeg(0)])


def test_outputs_that_are_not_understood_are_not_guessed() -> None:
    images = keras.Input((PIXELS, PIXELS, 3))
    odd = keras.Model(images, keras.layers.ReLU()(keras.layers.Dense(6)(keras.layers.Flatten()(images))))
    with pytest.raises(UserError, match="logits or probabilities"):
        load_model(odd).require_activation()


def test_a_released_checkpoint_is_used_with_its_dictionary(tmp_path: Path) -> None:
    """A checkpoint under the released names, of a network that has the released depth of 50."""
    names = ["tench\tTinca", "goldfish", "fox"]
    source = resnet(50, len(names), stock=True)
    values = {released_name(variable.path): variable.numpy() for variable in source.variables}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = {name: tf.compat.v1.Variable(value) for name, value in values.items()}
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver(variables).save(session, str(tmp_path / "model.ckpt"))
    (tmp_path / "imagenet2012_dictionary.txt").write_text("".join(f"{i}\t{name}\n" for i, name in enumerate(names)))
    classifier = Classifier.released(tmp_path / "model.ckpt", tmp_path / "imagenet2012_dictionary.txt", depth=50,
                                     pixels=64, activation="softmax")
    found = classifier.predict([jpeg(0)], top=3)
    assert sorted(found["name"]) == ["fox", "goldfish", "tench Tinca"]
    assert found["probability"].sum() == pytest.approx(1, rel=1e-5)
    assert classifier.features([jpeg(0)]).shape == (1, 2048)
