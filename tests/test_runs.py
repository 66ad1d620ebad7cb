"""A run in this process: what it leaves, resumes, redoes and refuses."""

import json
import os
import shutil
import signal
import subprocess
import threading

import numpy as np
import pytest
import torch
from conftest import FAST, ROOT, prepared, snapshot
from PIL import Image

from dsg.config import load_with_sources
from dsg.metrics.image import SSIM
from dsg.runs import main, summary


def test_a_finished_run_writes_nothing(finished):
    before = snapshot(finished)
    run = prepared(finished)
    assert run.finished and run.work() == 0 and run.execute() == []
    assert snapshot(finished) == before


def test_progress_adds_up_to_the_work_that_was_announced(tmp_path):
    run = prepared(tmp_path / "o", "sampler=dps", "batch_size=2")
    done = []
    announced = run.work()
    run.execute(done.append)
    assert sum(done) == announced == 3 * (3 + 2 * 3)  # three steps there and back, for three images


def test_network_evaluations_and_backward_passes_are_counted(finished):
    summary = prepared(finished).results.summary()
    assert summary["network_evaluations"] == 3 and summary["backward_passes"] == 2  # none in DSG's last step
    assert summary["radius"] == pytest.approx(1, abs=1e-4)  # of its steps, in radii of the sphere


def test_metrics_json_is_the_same_to_the_byte_however_often_the_run_was_interrupted(finished, tmp_path):
    """Rows from memory or from the disk; but for the time that it took."""

    def without_time(out):
        summary = json.loads((out / "metrics.json").read_text())
        return json.dumps({k: v for k, v in summary.items() if k not in ("seconds_per_image", "speed")})

    class Stop(Exception):
        pass

    def stop_after_two(state, names):
        if names == ["00002"]:
            raise Stop

    with pytest.raises(Stop):
        prepared(tmp_path / "o", "batch_size=1").execute(callback=stop_after_two)
    assert len(prepared(tmp_path / "o").pending()) == 1
    prepared(tmp_path / "o").execute()
    assert without_time(tmp_path / "o") == without_time(finished)


def test_on_a_cpu_the_default_batch_is_what_the_network_sees_at_a_time_and_each_is_saved_when_it_is_done(tmp_path):
    run = prepared(tmp_path / "o", "data.limit=6", "device=cpu")
    assert run.batch_size == run.prior.cpu_batch == 4  # configs/model/avatars64.yaml

    class Stop(Exception):
        pass

    def stop_in_the_second(state, names):
        if names == ["00004", "00005"]:
            raise Stop

    with pytest.raises(Stop):
        run.execute(callback=stop_in_the_second)
    assert sorted(p.stem for p in (tmp_path / "o/images").iterdir()) == [f"{i:05}" for i in range(4)]
    assert [item.name for item in prepared(tmp_path / "o", "data.limit=6").pending()] == ["00004", "00005"]
    assert prepared(None, "model.cpu_batch=0", "device=cpu").batch_size == 16
    assert prepared(None, "batch_size=3", "device=cpu").batch_size == 3


@pytest.mark.parametrize("file", ["images/00001.png", "truth/00001.png", "condition/00001.png"])
@pytest.mark.parametrize("damage", ["cut", "emptied", "exchanged", "removed"])
def test_damaged_results_are_made_again(tmp_path, finished, file, damage):
    shutil.copytree(finished, tmp_path / "o")
    path = tmp_path / "o" / file
    before = path.read_bytes()
    if damage == "cut":
        path.write_bytes(before[:-20])
    elif damage == "emptied":
        path.write_bytes(b"")
    elif damage == "exchanged":
        shutil.copy(path.with_name("00000.png"), path)
    else:
        path.unlink()
    run = prepared(tmp_path / "o")
    assert [item.name for item in run.pending()] == ["00001"]
    run.execute()
    assert path.read_bytes() == before and prepared(tmp_path / "o").finished


def test_one_bad_image_ends_alone(tmp_path):
    """Its measurement is not a number: the others come out, it is in the record, and a second call tries it again."""
    run = prepared(tmp_path / "o")
    spoil(run, "00001")
    (failure,) = run.execute()
    assert (failure.id, failure.step_index) == ("00001", 2)
    assert sorted(p.name for p in (tmp_path / "o/images").iterdir()) == ["00000.png", "00002.png"]
    assert [item.name for item in run.pending()] == ["00001"]
    assert [f["id"] for f in run.results.summary()["failures"]] == ["00001"]


def spoil(run, name):
    """Makes the measurement of this image NaN, whenever it is asked for."""
    condition = run.task.condition

    def spoilt(inputs, seed):
        made = condition(inputs, seed)
        made["y"][[i.id == name for i in inputs]] = float("nan")
        return made

    run.task.condition = spoilt


def test_failures_of_all_shards_are_in_the_summary_until_a_resume_succeeds(tmp_path):
    """The shard that ends last has none of its own; a summary over fewer images does not name them."""
    for rank in (1, 0):
        run = prepared(tmp_path / "o")
        run.shard = (rank, 2)
        spoil(run, "00001")
        failed = run.execute()
        assert [failure.id for failure in failed] == ["00001"] * rank
    expected = {"id": "00001", "step_index": 2}
    (failure,) = run.results.summary()["failures"]
    assert {k: failure[k] for k in expected} == expected and set(failure) == {*expected, "t"}
    one = prepared(tmp_path / "o", "data.limit=1")
    one.execute()
    assert one.results.summary()["failures"] == []
    assert prepared(tmp_path / "o").execute() == []
    assert run.results.summary()["failures"] == [] and run.results.summary()["images"] == 3


def test_two_processes_on_one_run_both_end_well(tmp_path, finished):
    """Both begin with everything pending, and write the same files at the same time."""
    runs = [prepared(tmp_path / "o", "batch_size=1") for _ in range(2)]
    codes = []

    def work(run):
        codes.append(run.execute())

    threads = [threading.Thread(target=work, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [[], []]
    images = {p.name: p.read_bytes() for p in (tmp_path / "o/images").iterdir()}
    assert images == {p.name: p.read_bytes() for p in (finished / "images").iterdir()}
    assert prepared(tmp_path / "o").finished and not list((tmp_path / "o").rglob("*.partial"))


@pytest.mark.parametrize("count", [2, 3])
def test_shards_together_are_the_run_of_one_process(tmp_path, finished, count):
    for rank in reversed(range(count)):
        run = prepared(tmp_path / "o")
        run.shard = (rank, count)
        run.execute()
    assert prepared(tmp_path / "o").finished
    for folder in ("images", "truth", "condition"):
        for file in (finished / folder).iterdir():
            assert (tmp_path / "o" / folder / file.name).read_bytes() == file.read_bytes()
    merged, single = (json.loads((o / "metrics.json").read_text()) for o in (tmp_path / "o", finished))
    assert merged["metrics"] == single["metrics"] and merged["image_ids"] == single["image_ids"]


def test_a_shard_that_ends_while_another_writes_its_summary_is_in_it(tmp_path, monkeypatch):
    first, second = (prepared(tmp_path / "o", "data.limit=2") for _ in range(2))
    first.shard, second.shard = (0, 2), (1, 2)
    means, between = summary.means, [second.execute]

    def slow(table):
        while between:
            between.pop()()
        return means(table)

    monkeypatch.setattr(summary, "means", slow)
    first.execute()
    assert first.results.summary()["images"] == 2


def test_a_shard_without_work_ends_well(tmp_path, monkeypatch, capsys):
    options = [*FAST, "data.limit=1", f"out={tmp_path / 'o'}", "wandb.mode=offline"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in (1, 0):
        monkeypatch.setenv("RANK", str(rank))
        assert main.run_one(*load_with_sources(options)) == 0
        said = capsys.readouterr()
        assert f"{1 - rank} image" in said.out and "W&B" not in said.err


def test_one_image_has_no_interval(tmp_path):
    prepared(tmp_path / "o", "data.limit=1").execute()
    psnr = json.loads((tmp_path / "o/metrics.json").read_text())["metrics"]["psnr"]
    assert psnr["mean"] > 0 and psnr["low"] is None and psnr["high"] is None


def test_one_sample_and_several_do_not_share_a_folder(finished):
    with pytest.raises(ValueError, match="samples was one, now several"):
        prepared(finished, "samples=2")


def test_results_inside_the_inputs_are_refused(tmp_path):
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="lies inside data.root"):
        prepared(tmp_path / "o", f"data.root={tmp_path}")


@pytest.mark.parametrize("out", ["a.txt", "a.txt/o", "locked/o"])
def test_what_cannot_be_a_folder_of_results_is_refused_before_work(tmp_path, monkeypatch, out):
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "locked").mkdir()
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: not str(path).endswith("locked") and access(path, mode)
    )  # we may be root
    with pytest.raises(ValueError, match=f"out={tmp_path / out} cannot be made: .* is no folder that can be written"):
        prepared(tmp_path / out)


def test_names_that_leave_the_results_folder_are_refused():
    with pytest.raises(ValueError, match="task.name"):
        prepared(None, "task.name=../../x")


def test_a_full_disk_is_one_line_that_says_what_is_safe(tmp_path, monkeypatch, capsys):
    """The second image cannot be written. With space again the same call goes on."""
    from dsg.runs import runner

    config, sources = load_with_sources([*FAST, f"out={tmp_path / 'o'}", "batch_size=1"])
    save = runner.images.save

    def full(path, *what):
        if path.name.startswith("00001"):
            raise OSError(28, "No space left on device", str(path))
        save(path, *what)

    monkeypatch.setattr(runner.images, "save", full)
    assert main.run_one(config, sources) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "No space left" in said and "00001.png" in said and f"safe in {tmp_path / 'o'}: 1 image;" in said
    monkeypatch.setattr(runner.images, "save", save)
    assert main.run_one(config, sources) == 0


def test_a_metric_that_runs_out_of_memory_is_one_line_and_the_rest_is_kept(tmp_path, monkeypatch, capsys):
    def too_large(self, x, y):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the documentation")

    monkeypatch.setattr(SSIM, "compare", too_large)
    assert main.run_one(*load_with_sources([*FAST, "metrics=[ssim,psnr]", f"out={tmp_path / 'o'}"])) == 1
    said = capsys.readouterr()
    assert "ssim: CUDA out of memory. Tried to allocate 2.00 GiB.\n" in said.out and "Traceback" not in said.err
    made = prepared(tmp_path / "o").results.summary()
    assert made["images"] == 3 and {"psnr"} == {"psnr", "ssim"} & set(made["metrics"])


def test_ctrl_c_is_one_line_and_exit_code_130(tmp_path, monkeypatch, capsys):
    def interrupted(*args, **options):
        signal.raise_signal(signal.SIGINT)
        for _ in range(1000):  # where Python looks for signals
            pass

    config, sources = load_with_sources([*FAST, f"out={tmp_path / 'o'}"])
    monkeypatch.setattr("dsg.runs.runner.sample", interrupted)
    assert main.run_one(config, sources) == 130
    assert "the same command goes on" in capsys.readouterr().err.splitlines()[-1]


def test_a_copy_without_git_s_folder_has_no_version_even_in_another_repository(tmp_path, monkeypatch):
    from dsg.runs import runner

    copy = tmp_path / "theirs/copy"
    copy.mkdir(parents=True)
    for command in (["init"], ["-c", "user.name=a", "-c", "user.email=b", "commit", "--allow-empty", "-m", "c"]):
        subprocess.run(["git", *command, "--quiet"], cwd=copy.parent, check=True)
    monkeypatch.setattr(runner, "REPOSITORY", copy.parent)
    assert runner.code_version.__wrapped__() != "unknown"
    monkeypatch.setattr(runner, "REPOSITORY", copy)
    assert runner.code_version.__wrapped__() == "unknown"


def test_options_without_effect_are_no_part_of_a_run_s_identity(finished):
    """DSG has a guidance rate, and no step size."""
    assert prepared(finished, "sampler.step_size=9", "sampler.variance=fixed_small").finished
    with pytest.raises(ValueError, match="sampler.guidance_rate was"):
        prepared(finished, "sampler.guidance_rate=0.31")
    folders = {prepared(None, "sampler=mpgd", f"sampler.guidance_rate={rate}").results.out for rate in (0.1, 0.2)}
    assert len(folders) == 1


def test_a_window_that_never_guides_is_noted(tmp_path):
    (note,) = prepared(tmp_path / "o", "sampler.window=[999.5,1000]").notes
    assert "no step is guided" in note and "sampler.window=[999.5, 1000]" in note
    assert prepared(tmp_path / "o", "sampler=unconditional").notes == []


def test_without_git_and_without_a_home_a_run_works_and_its_version_is_unknown(tmp_path, monkeypatch):
    from dsg.runs import runner

    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("HOME", "/proc/nowhere")
    runner.code_version.cache_clear()
    try:
        assert prepared(tmp_path / "o", "data.limit=1").execute() == []
    finally:
        runner.code_version.cache_clear()
    assert json.loads((tmp_path / "o/metrics.json").read_text())["versions"]["code"] == ["unknown"]


def test_of_two_runs_that_begin_at_once_the_second_is_told_in_one_line(tmp_path, monkeypatch, capsys):
    """Both were prepared before either had the folder."""
    late = load_with_sources([*FAST, "data.limit=1", f"out={tmp_path / 'o'}", "seed=1"])
    claimed = main.restore

    def other_first(*arguments):
        prepared(tmp_path / "o", "data.limit=1").execute()
        return claimed(*arguments)

    monkeypatch.setattr(main, "restore", other_first)
    assert main.run_one(*late) == 2
    assert "holds the results of another run: seed was 0, now 1" in capsys.readouterr().err.splitlines()[-1]


def test_why_a_metric_has_no_number_is_printed(finished, capsys):
    main.report(prepared(finished, "metrics=[psnr,evaluator_frechet]"))
    assert "not computed evaluator_frechet: 3 images are too few: at least 500" in capsys.readouterr().out


def test_a_metric_that_raises_takes_no_other_with_it(tmp_path, capsys):
    evaluator = shutil.copytree(ROOT / "checkpoints/avatars64/evaluator", tmp_path / "evaluator")
    (evaluator / "statistics.safetensors").write_bytes(b"damaged")
    out = tmp_path / "o"
    config, sources = load_with_sources([*FAST, "metrics=[psnr,evaluator_frechet]", f"out={out}"])
    config.metrics.evaluator_frechet.update({"checkpoint": str(evaluator), "smallest": 3})
    for _ in range(2):
        assert main.run_one(config, sources) == 1
        said = capsys.readouterr().out
        assert "not computed evaluator_frechet: " in said and "cannot be read as a checkpoint" in said
        summary = json.loads((out / "metrics.json").read_text())
        assert summary["metrics"]["psnr"]["mean"] > 0 and summary["set_metrics"] == {}
        assert (out / "per_image.csv").exists()
    shutil.copy(ROOT / "checkpoints/avatars64/evaluator/statistics.safetensors", evaluator)
    assert main.run_one(config, sources) == 0
    assert "evaluator_frechet" in json.loads((out / "metrics.json").read_text())["set_metrics"]


def test_images_that_do_not_fit_their_measurements_are_warned_of(tmp_path):
    """An unguided sample fits nothing, and is not blamed; guidance that is much too weak is."""
    weak = prepared(tmp_path / "weak", "sampler=dps", "sampler.step_size=0.001", "data.limit=1")
    weak.execute()
    (said,) = main.misfits(weak)
    assert "residual" in said and "0.05" in said and "avatars64 knows drawn faces only" in said
    free = prepared(tmp_path / "free", "sampler=unconditional", "data.limit=1")
    free.execute()
    assert main.misfits(free) == []


def test_own_masks_are_told_by_what_they_hide(tmp_path):
    mask = np.full((64, 64), 255, np.uint8)
    mask[:16] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    assert prepared(tmp_path / "o", f"task.mask={tmp_path / 'mask.png'}").notes == [
        "task.mask: 25.0 % of the pixels are missing"
    ]
