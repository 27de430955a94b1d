"""A run finds its data from everywhere, and other data are told apart from them."""

import shutil
import warnings

import pytest
import yaml
from PIL import Image
from support.files import make_run_old
from support.trainings import small, stored, train_digits, two_image_folders

import accuracy_booster as ab
from accuracy_booster.cli import main

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def images(tmp_path):
    return two_image_folders(tmp_path)


def change(path, **values):
    """Rewrite a run's configuration, as an older version would have written it."""
    (path / "config.yaml").write_text(yaml.safe_dump(stored(path) | values))


def make_old(path):
    """Make it a run of an older version: a relative path and no marks of its data."""
    change(path, data="images")
    make_run_old(path, "data", "keeps_head")


def test_eval_and_resume_from_another_directory_take_the_runs_own_data(here, monkeypatch):
    result = small("images", output="run")
    monkeypatch.chdir(here / "elsewhere")  # it has other images under the same relative path
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ab.evaluate("../run") == result.test
    longer = ab.train(resume="../run", epochs=2)
    monkeypatch.chdir(here)
    again = small("images", output="again", epochs=2)
    assert longer.config.data == again.config.data == str(here / "images")


def test_data_that_have_moved_are_told_and_can_be_given(here, capsys):
    result = small("images", output="run")
    (here / "images").rename(here / "moved")
    told = "has its data in .*images'.* no such directory here; give their place by --data"
    with pytest.raises(ValueError, match=told):
        ab.train(resume="run", epochs=2)
    with pytest.raises(ValueError, match=told):
        ab.evaluate("run")
    assert main(["eval", "run"]) == 2
    assert ab.evaluate("run", "moved") == result.test
    assert main(["eval", "run", "--data", "moved"]) == 0
    words = ["train", "--resume", "run", "--epochs", "2", "--data", "moved"]
    assert main(words) == 0
    assert stored(here / "run")["data"] == str(here / "moved")
    assert ab.evaluate("run").images == 8  # from now on without a place


def test_other_data_are_refused_on_resume_and_told_on_eval(here):
    small("images", output="run")
    before = {p.name: p.read_bytes() for p in (here / "run").iterdir() if p.is_file()}
    with pytest.raises(ValueError, match="train split has 17 images and had 16 images, the test"):
        ab.train(resume="run", epochs=2, data="elsewhere/images")
    with pytest.raises(ValueError, match="train split has 17 images and had 16 images, the test"):
        ab.train(resume="run", data="elsewhere/images")  # though there is nothing to do
    with pytest.raises(ValueError, match=r"data='nowhere' is no directory; give .*/images'$"):
        ab.train(resume="run", data="nowhere")
    shutil.copytree("images", "copy")
    assert ab.train(resume="run", data="copy").epochs_done == 1
    assert before == {p.name: p.read_bytes() for p in (here / "run").iterdir() if p.is_file()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ab.evaluate("run", "elsewhere/images").images == 9  # other data, as asked for
    shutil.copy(here / "images/test/a/000.png", here / "images/test/a/more.png")
    with pytest.warns(UserWarning, match="test split has 9 images and had 8 images"):
        assert ab.evaluate("run").images == 9
    (here / "images/test/a/more.png").unlink()
    (here / "images/test/a/000.png").rename(here / "images/test/b/more.png")
    with pytest.warns(UserWarning, match="the test split has other labels in its 8 images"):
        ab.evaluate("run")
    with pytest.raises(ValueError, match="other labels in its 8 images; give their place"):
        ab.train(resume="run", epochs=2)


def test_a_bad_image_is_no_other_data(here):
    """Images that became unreadable are counted and bounded as ever: the set is the same."""
    small("images", output="run", augment="resized_crop")
    (here / "images/train/a/000.png").write_bytes(b"no image")
    assert len(ab.train(resume="run", epochs=2).history) == 2


def test_runs_of_an_older_version_go_on(here, capsys, monkeypatch):
    result = small("images", output="run")
    make_old(here / "run")
    assert ab.evaluate("run") == result.test
    assert "taken to be" in capsys.readouterr().err
    assert len(ab.train(resume="run", epochs=2).history) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert f"a path relative to where it was started, which is taken to be {here}/images" in told
    monkeypatch.chdir(here / "run")
    with pytest.raises(ValueError, match=r"'images', a path relative to .* give their place"):
        ab.train(resume=here / "run", epochs=3)
    assert len(ab.train(resume=here / "run", epochs=3, data=here / "images").history) == 3


def test_data_of_the_same_names_sizes_and_labels_are_told_apart(images, tmp_path):
    run = tmp_path / "run"
    train_digits(run, data=str(images), batch_size=8)
    with pytest.raises(ValueError, match=r"train split has other contents .* test split has other"):
        ab.train(resume=run, epochs=2, data=str(images.parent / "others"))
    ab.train(resume=run, epochs=2)
    file = images / "test" / "class0" / "2.bmp"
    Image.new("RGB", (8, 8)).save(file)
    with pytest.warns(UserWarning, match="the test split has other contents"):
        ab.evaluate(run)
    file.rename(images / "test" / "class0" / "2b.bmp")
    with pytest.raises(ValueError, match="the test split has other file names"):
        ab.train(resume=run, epochs=3)


def test_marks_of_parquet_and_of_images_in_memory(images, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    def write(change=0):
        for split in ("train", "test"):
            files = sorted((images / split).rglob("*.bmp"))
            rows = [bytearray(file.read_bytes()) for file in files]
            rows[0][-1] ^= change
            labels = [int(file.parent.name[-1]) for file in files]
            table = pa.table({"image": [bytes(r) for r in rows], "label": labels})
            pq.write_table(table, tmp_path / "parquet" / f"{split}.parquet")

    (tmp_path / "parquet").mkdir()
    write()
    run = tmp_path / "run"
    train_digits(run, data=str(tmp_path / "parquet"), batch_size=8)
    write(change=1)
    with pytest.raises(ValueError, match="other contents"):
        ab.train(resume=run, epochs=2)
    digits = ab.data.load_data("digits").marks
    assert digits["train"]["pixels"] != digits["test"]["pixels"]
