"""A user's work in JupyterLab, in Debian's Chromium: clean notebooks, widgets, and the questions of docs/use.md."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image
from tests.conftest import PATIENCE_SECONDS
from tests.notebooks.lab import HEADERS, TOKEN, Jupyter, jupyter_server
from tests.pipeline import EXPERIMENT, EXPERIMENTS_RATE, run

playwright = pytest.importorskip("playwright.sync_api",
                                 reason="needs Playwright: pip install -r requirements-browser.txt")

CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")]
REPORT = "data/reports/5_evaluate.ipynb"
NEXT_CELL = "6 * 7"
EXECUTED = re.compile(r"^\[\d+\]:$")
CELL = ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-CodeCell"


class Lab:
    """A page of JupyterLab with one notebook, used by its menus, buttons and keys.

    `url` is the server's, and `path` that of the notebook in the repository, which is the server's root.
    """

    def __init__(self, page: Any, url: str, repository: Path, path: str) -> None:
        self.page, self.file = page, repository / path
        page.goto(f"{url}lab/tree/{path}?token={TOKEN}&reset")
        self.wait_until_idle()

    def wait_until_idle(self) -> None:
        """Wait until the kernel of this notebook waits for a cell; other signs are there before its kernel."""
        bar = self.page.locator("#jp-main-statusbar")
        playwright.expect(bar).to_contain_text("(ipykernel) | Idle")
        playwright.expect(bar).to_contain_text(self.file.name)

    def menu(self, name: str, item: str) -> None:
        self.page.get_by_role("menuitem", name=name, exact=True).click()
        self.page.get_by_role("menuitem", name=item, exact=True).click()

    def run_all(self) -> None:
        """Run all cells; none may fail or warn."""
        cells = [cell for cell in json.loads(self.file.read_text())["cells"] if cell["cell_type"] == "code"]
        self.menu("Run", "Run All Cells")
        playwright.expect(self.page.locator(f"{CELL} .jp-InputPrompt")).to_have_text([EXECUTED] * len(cells))
        for output in ("error", "stderr"):  # TensorFlow's notices go to the server's log
            found = self.page.locator(f"{CELL} [data-mime-type='application/vnd.jupyter.{output}']")
            playwright.expect(found).to_have_count(0)

    def save(self) -> None:
        """Save by the keyboard; returns when the server has written the file."""
        with self.page.expect_response(lambda answer: answer.request.method == "PUT" and self.file.name in answer.url):
            self.page.keyboard.press("Control+s")

    def cell(self, source: str) -> Any:
        """The code cell with this text in its source."""
        return self.page.locator(CELL).filter(has=self.page.locator(".cm-content", has_text=source))

    def button(self, name: str) -> Any:
        return self.page.get_by_role("button", name=name, exact=True)

    def expect(self, locator: Any) -> Any:
        return playwright.expect(locator)


@pytest.fixture(scope="module")
def repository(committed: Path) -> Path:
    """A repository with committed results, and an experiment with twice the learning rate."""
    assert unchanged(committed)
    return committed


@pytest.fixture(scope="module")
def jupyter(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    with jupyter_server(repository, repository, tmp_path_factory.mktemp("jupyter")) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sandbox = [] if os.geteuid() else ["--no-sandbox"]  # Chromium has none for root
    with playwright.sync_playwright() as driver:
        playwright.expect.set_options(timeout=PATIENCE_SECONDS * 1000)
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, jupyter: Jupyter) -> Iterator[Any]:
    """A new page; the kernels that it started are ended with it."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    context.set_default_timeout(PATIENCE_SECONDS * 1000)
    yield context.new_page()
    context.close()
    for session in requests.get(f"{jupyter.url}api/sessions", headers=HEADERS, timeout=PATIENCE_SECONDS).json():
        requests.delete(f"{jupyter.url}api/sessions/{session['id']}", headers=HEADERS,
                        timeout=PATIENCE_SECONDS).raise_for_status()


def unchanged(repository: Path) -> bool:
    """Whether git and DVC find the repository as it was committed."""
    return (run(repository, "git", "status", "--porcelain").stdout == ""
            and "up to date" in run(repository, "dvc", "status").stdout)


def images(locator: Any) -> list[str]:
    """The sources of the images in a part of the page; each has been drawn."""
    found = locator.locator("img").evaluate_all(
        "all => Promise.all(all.map(one => one.decode().then(() => [one.naturalWidth, one.src])))")
    assert all(width for width, _ in found)
    return [source for _, source in found]


def test_a_stages_notebook_that_is_opened_and_saved_changes_nothing(page: Any, jupyter: Jupyter,
                                                                    repository: Path) -> None:
    lab = Lab(page, jupyter.url, repository, "notebooks/5_evaluate.ipynb")
    lab.save()
    assert unchanged(repository)


def test_a_notebook_that_is_run_saved_and_loaded_again_has_no_outputs(page: Any, jupyter: Jupyter,
                                                                      repository: Path) -> None:
    lab = Lab(page, jupyter.url, repository, "notebooks/explore_dataset.ipynb")
    lab.run_all()
    browser = lab.cell("DatasetBrowser(LISTS").locator(".jp-OutputArea")
    lab.expect(browser).to_contain_text("all classes: train")
    every_image = images(browser)
    page.get_by_placeholder("search by name or WordNet id").fill("triangle")
    page.get_by_placeholder("search by name or WordNet id").press("Enter")
    choice = browser.locator("select option").filter(has_text=re.compile(r"^triangle"))
    browser.locator("select").select_option(value=choice.get_attribute("value"))
    lab.expect(browser).to_contain_text("triangle: train")
    lab.button("val").click()
    lab.expect(browser).to_contain_text("triangle: val")
    assert images(browser) and set(images(browser)) != set(every_image)
    lab.save()
    assert unchanged(repository)
    page.reload()
    lab.wait_until_idle()
    lab.expect(lab.cell("DatasetBrowser(LISTS")).to_be_visible()
    lab.expect(page.locator(f"{CELL} .jp-OutputArea-output")).to_have_count(0)


def test_a_report_is_read_only_and_the_browser_says_so(page: Any, jupyter: Jupyter, repository: Path) -> None:
    lab = Lab(page, jupyter.url, repository, REPORT)
    before = lab.file.stat()
    lab.expect(page.get_by_text("notebook is read-only")).to_be_visible()
    page.keyboard.press("Control+s")
    lab.expect(page.get_by_text(f"{REPORT} is read-only").first).to_be_visible()
    assert lab.file.stat() == before


def test_the_walk_worst_class_and_mislabelled_image(page: Any, jupyter: Jupyter, repository: Path) -> None:
    lab = Lab(page, jupyter.url, repository, "notebooks/explore_predictions.ipynb")
    lab.run_all()
    worst = lab.cell("threshold_table(").locator("tbody th").first.inner_text()
    browser = lab.cell("ErrorBrowser(EVALUATION").locator(".jp-OutputArea")
    lab.expect(browser).to_contain_text("all validation images")
    completed = browser.locator(f"datalist option[value^='{worst} [']").get_attribute("value")
    page.get_by_placeholder("type a part of a name").fill(completed)
    page.get_by_placeholder("type a part of a name").press("Enter")
    lab.expect(browser).to_contain_text(f"{worst}: worst false positives")
    lab.expect(browser).to_contain_text(f"{worst} has a precision of")
    lab.expect(browser.locator("figcaption").first).to_contain_text(re.compile(r"val-\w*\d{8}.*probability 0\.\d+"))
    wrong = images(browser)
    lab.button("worst misses").click()
    lab.expect(browser).to_contain_text(f"{worst}: worst misses")
    lab.expect(browser.locator("figcaption").first).to_contain_text(re.compile(rf"[✓○] {worst}"))
    assert wrong and images(browser) and images(browser) != wrong
    lab.save()
    assert unchanged(repository)


def test_the_walk_two_learning_rates(page: Any, jupyter: Jupyter, repository: Path) -> None:
    lab = Lab(page, jupyter.url, repository, "notebooks/explore_runs.ipynb")
    lab.run_all()
    table = lab.cell("runs.comparison_table()").locator("table")
    lab.expect(table.locator("thead")).to_contain_text("train.learning rate")
    lab.expect(table.locator("tr").filter(has_text=EXPERIMENT)).to_contain_text(str(EXPERIMENTS_RATE))
    assert len(images(lab.cell("runs.plot_curves("))) == len(images(lab.cell("runs.plot_differences("))) == 1
    lab.expect(lab.cell("runs.difference_table(").locator("table thead")).to_contain_text(f"B: {EXPERIMENT}")


def test_the_walk_a_photograph(page: Any, jupyter: Jupyter, repository: Path, tmp_path: Path) -> None:
    photograph = tmp_path / "photograph.jpg"
    Image.linear_gradient("L").resize((640, 480)).convert("RGB").save(photograph)
    lab = Lab(page, jupyter.url, repository, "notebooks/explore_images.ipynb")
    lab.run_all()
    browser = lab.cell("PictureBrowser(classifier").locator(".jp-OutputArea")
    lab.expect(browser.locator("img")).to_have_count(2)
    before, _ = images(browser)
    with page.expect_file_chooser() as chooser:
        browser.get_by_role("button", name=re.compile("your picture")).click()
    chooser.value.set_files(photograph)
    lab.expect(browser.locator("img").first).not_to_have_attribute("src", before)
    lab.expect(browser.locator("figcaption").first).to_have_text("your picture")
    lab.expect(browser.locator("table")).to_contain_text("probability")
    second = browser.locator("select option").nth(1).inner_text().replace("\N{NO-BREAK SPACE}", " ").rpartition(" ")[0]
    browser.locator("select").select_option(index=1)
    lab.expect(browser.locator("figcaption").last).to_contain_text(f"heat map of {second}")
    lab.button("find similar images").click()
    lab.expect(browser).to_contain_text("validation images, by the cosine of their features")
    assert len(images(browser)) > 3


def test_the_walk_one_page_for_a_colleague(browser: Any, repository: Path) -> None:
    run(repository, "env", "PYTHONPATH=src", "python", "-m", "mlimages.commands.report")
    context = browser.new_context(offline=True)
    page = context.new_page()
    failed: list[str] = []
    page.on("requestfailed", lambda request: failed.append(request.url))
    page.on("console", lambda message: failed.append(message.text))
    page.goto((repository / "report.html").as_uri())
    assert len(images(page)) > 20
    playwright.expect(page.locator("h1, h2").filter(has_text="Train: the network")).to_be_visible()
    code = page.get_by_text("model = train(params, machine)")
    playwright.expect(code).to_be_hidden()
    page.locator("details").filter(has_text="model = train(params, machine)").locator("summary").click()
    playwright.expect(code).to_be_visible()
    assert not failed
    context.close()


def test_an_interrupted_training_is_saved_and_the_next_cell_runs(page: Any, jupyter: Jupyter, repository: Path) -> None:
    lab = Lab(page, jupyter.url, repository, "notebooks/4_train.ipynb")
    line = page.locator(f"{CELL} .cm-line").filter(has_text=re.compile(r"^epochs = "))
    line.click()
    page.keyboard.press("Home")
    page.keyboard.press("Shift+End")
    page.keyboard.type("epochs = 9999.0")
    lab.menu("Run", "Run All Cells")
    training = lab.cell("model = train(params")
    lab.expect(training).to_contain_text("images_per_second=")
    page.get_by_role("button", name=re.compile("Interrupt the kernel")).click()
    lab.expect(training).to_contain_text(re.compile(r"SIGINT stopped the training after step \d+"))
    lab.expect(training).to_contain_text("its checkpoint is kept")
    lab.wait_until_idle()
    training.locator(".jp-InputPrompt").click()
    page.keyboard.press("b")
    page.keyboard.press("Enter")
    page.keyboard.type(NEXT_CELL)
    page.keyboard.press("Control+Enter")
    lab.expect(lab.cell(NEXT_CELL).locator(".jp-OutputArea")).to_contain_text("42")
    assert "data/model" not in run(repository, "dvc", "status", "train").stdout
