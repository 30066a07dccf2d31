"""A run that is stopped anywhere and goes on ends with the same bits as one that was not."""

import re
import resource
import shutil

import pytest
import torch

from graft.config.faults import InputError, RunFailed
from graft.config.schema import MethodConfig, SchedulerConfig, SchedulerKind, UnfreezeKind
from graft.finetune import checkpoint as checkpoint_file
from graft.finetune.module import FineTuning
from tests.finetune.endings import ending

EPOCH = 7  # steps


class Stopped(Exception):
    pass


def settings(**changes):
    return {
        "freeze": "backbone",
        "kind": UnfreezeKind.gradual,
        "unfreeze": {"start": "4 steps", "every": "6 steps"},
        "scheduler": SchedulerConfig(kind=SchedulerKind.one_cycle),
        **changes,
    }


def run(tiny, folder, *, tuning=None, workers=0, resume="auto", accumulate=1, **changes):
    return tiny.fit(
        tuning or tiny.tuning(**settings(**changes)),
        tiny.Data(workers=workers),
        folder,
        trainer=tiny.trainer(max_epochs=3, accumulate=accumulate),
        checkpoint=tiny.checkpoint(every_n_steps=2),
        resume=resume,
    )


def stop_in(monkeypatch, hook, at):
    """The hook raises at its so-many-th call (from 0) of the next run."""
    calls = iter(range(1_000_000))
    original = getattr(FineTuning, hook)

    def stopping(self, *args):
        if next(calls) == at:
            raise Stopped
        return original(self, *args)

    monkeypatch.setattr(FineTuning, hook, stopping)


@pytest.fixture(scope="module")
def reference(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    run(tiny, folder)
    return ending(folder)


@pytest.mark.parametrize(
    "moment",
    [
        ("on_train_batch_start", 1),  # nothing saved yet
        ("on_train_batch_start", 3),  # amid an epoch, with a checkpoint two steps old
        ("on_train_batch_start", 4),  # at the first thaw
        ("training_step", 5),  # just behind it
        ("on_validation_epoch_end", 0),  # an epoch's batches done, its end not saved
        ("on_train_batch_start", EPOCH),  # between two epochs
        ("on_train_epoch_start", 1),
        ("on_train_batch_start", EPOCH + 3),  # at the second thaw
        ("training_step", 2 * EPOCH + 6),  # the last batch of all
    ],
)
def test_stopped_and_resumed_is_the_same_run(tiny, tmp_path, monkeypatch, reference, moment):
    hook, at = moment
    with monkeypatch.context() as patch:
        stop_in(patch, hook, at)
        with pytest.raises(Stopped):
            run(tiny, tmp_path)
    result = run(tiny, tmp_path)
    assert (result.resumed_from is None) == (at == 1 and hook == "on_train_batch_start")
    assert ending(tmp_path) == reference
    assert result.frozen_verified is True


# The machine that runs the tests may have one core, where torch advises against two workers.
@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")
def test_stopped_with_workers_and_resumed_with_another_number(tiny, tmp_path, monkeypatch, reference):
    with monkeypatch.context() as patch:
        stop_in(patch, "training_step", 3)
        with pytest.raises(Stopped):
            run(tiny, tmp_path, workers=2)
    run(tiny, tmp_path, workers=1)
    assert ending(tmp_path) == reference


def test_stopped_amid_accumulated_batches(tiny, tmp_path, monkeypatch):
    run(tiny, tmp_path / "undisturbed", accumulate=2)
    with monkeypatch.context() as patch:
        stop_in(patch, "training_step", EPOCH + 5)
        with pytest.raises(Stopped):
            run(tiny, tmp_path / "stopped", accumulate=2)
    run(tiny, tmp_path / "stopped", accumulate=2)
    assert ending(tmp_path / "stopped") == ending(tmp_path / "undisturbed")


def test_stopped_with_a_mean_of_the_weights_and_l2_sp(tiny, tmp_path, monkeypatch):
    methods = {"method": MethodConfig(ema=0.9, l2_sp=0.01), "anchored": frozenset({"layer2.conv.weight"})}
    run(tiny, tmp_path / "undisturbed", **methods)
    with monkeypatch.context() as patch:
        stop_in(patch, "training_step", EPOCH + 3)
        with pytest.raises(Stopped):
            run(tiny, tmp_path / "stopped", **methods)
    run(tiny, tmp_path / "stopped", **methods)
    assert ending(tmp_path / "stopped") == ending(tmp_path / "undisturbed")


def test_stopped_between_the_two_writes_of_an_epochs_end(tiny, tmp_path, monkeypatch, reference):
    def stopping(*args):
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr("graft.finetune.callbacks.give_name", stopping)
        with pytest.raises(Stopped):
            run(tiny, tmp_path)
    assert not (tmp_path / "checkpoints" / "best.ckpt").exists()
    run(tiny, tmp_path)
    assert ending(tmp_path) == reference


def test_a_checkpoint_half_written_leaves_the_one_before(tiny, tmp_path, monkeypatch, reference):
    saves = iter(range(100))
    save = torch.save

    def full(checkpoint, path):
        if next(saves) == 3:
            path.write_bytes(b"PK half a")
            raise OSError(28, "No space left on device")
        save(checkpoint, path)

    with monkeypatch.context() as patch:
        patch.setattr("graft.finetune.callbacks.PATIENCE", 0)
        patch.setattr(checkpoint_file.torch, "save", full)
        with pytest.raises(
            RunFailed, match=r"last\.ckpt could not be written \(No space .*last\.ckpt, written before, is"
        ):
            run(tiny, tmp_path)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"last.ckpt", "previous.ckpt"}
    run(tiny, tmp_path)
    assert ending(tmp_path) == reference


@pytest.mark.parametrize(("monitor", "direction"), [("val/loss", "min"), ("val/accuracy", "max")])
def test_where_epochs_are_short_the_best_waits_in_memory(tiny, tmp_path, monkeypatch, monitor, direction):
    written = []
    write = checkpoint_file.CheckpointFile._write

    def noted(self, checkpoint, path):
        written.append((path.name, len(checkpoint["graft"]["history"])))
        write(self, checkpoint, path)

    def train(folder, patience):
        monkeypatch.setattr("graft.finetune.callbacks.PATIENCE", patience)
        written.clear()
        checkpoint = tiny.checkpoint(monitor=monitor, direction=direction)
        thawing = settings(unfreeze={"start": "14 steps", "every": "6 steps"}, optimizer=tiny.optimizer(lr=1.0))
        tuning = tiny.tuning(**thawing)
        tiny.fit(tuning, tiny.Data(), folder, trainer=tiny.trainer(max_epochs=6), checkpoint=checkpoint)
        best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["graft"]["history"]
        return ending(folder), len(best), list(written)

    monkeypatch.setattr(checkpoint_file.CheckpointFile, "_write", noted)
    each, best, names = train(tmp_path / "each", 0)
    assert names == [("last.ckpt", epoch) for epoch in range(1, 7)]
    seldom, best_too, names = train(tmp_path / "seldom", 1e9)
    assert best_too == best
    assert 1 < best < 6
    assert names == [("last.ckpt", 1), ("best.ckpt", best), ("last.ckpt", 6)]
    assert seldom == each


@pytest.mark.parametrize("moment", [("on_train_batch_start", 2 * EPOCH + 1), ("on_validation_epoch_end", 2)])
def test_stopped_behind_epochs_that_left_no_file_it_is_the_same_run(tiny, tmp_path, monkeypatch, reference, moment):
    def train():
        config = tiny.checkpoint()
        return tiny.fit(
            tiny.tuning(**settings()), tiny.Data(), tmp_path, trainer=tiny.trainer(max_epochs=3), checkpoint=config
        )

    monkeypatch.setattr("graft.finetune.callbacks.PATIENCE", 1e9)
    with monkeypatch.context() as patch:
        stop_in(patch, *moment)
        with pytest.raises(Stopped):
            train()
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert len(saved["graft"]["history"]) == 1, "two epochs were done"
    train()
    assert ending(tmp_path) == reference


def test_a_file_that_may_grow_no_further_leaves_the_one_before(tiny, tmp_path, monkeypatch, reference):
    """The kernel refuses the write, as it does on a full disk."""
    saves = iter(range(100))
    save = checkpoint_file.CheckpointFile.save_checkpoint

    def with_little_room(self, checkpoint, path, storage_options=None):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        if next(saves) == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            save(self, checkpoint, path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    with monkeypatch.context() as patch:
        patch.setattr("graft.finetune.callbacks.PATIENCE", 0)
        patch.setattr(checkpoint_file.CheckpointFile, "save_checkpoint", with_little_room)
        with pytest.raises(RunFailed, match=r"checkpoints/last\.ckpt could not be written .* MB are free there"):
            run(tiny, tmp_path)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"last.ckpt", "previous.ckpt"}
    torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    run(tiny, tmp_path)
    assert ending(tmp_path) == reference


def test_what_could_not_be_written_is_told_with_what_there_still_is(tmp_path):
    folder, full = tmp_path / "checkpoints", OSError(28, "No space left on device")
    folder.mkdir()
    told = rf"{folder}/last\.ckpt could not be written \(No space left on device; [\d,]+ MB are free there\)"
    goes_on = "; make room, and the same command goes on"
    assert re.fullmatch(told + goes_on, str(checkpoint_file.write_failure(folder / "last.ckpt", full)))
    (folder / "previous.ckpt").touch()
    kept = r"; previous\.ckpt, written before, is intact"
    assert re.fullmatch(told + kept + goes_on, str(checkpoint_file.write_failure(folder / "last.ckpt", full)))


def test_a_metrics_file_that_cannot_be_written_is_named(tiny, tmp_path, monkeypatch):
    def full(path, text):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("graft.finetune.callbacks.write_text", full)
    with pytest.raises(RunFailed, match=r"metrics\.csv could not be written \(Read-only file system.*last\.ckpt"):
        run(tiny, tmp_path)
    torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)


def test_a_finished_run_resumed_is_evaluated_and_nothing_else(tiny, tmp_path):
    first = run(tiny, tmp_path)
    files = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").iterdir()}
    again = run(tiny, tmp_path)
    assert again.metrics == first.metrics
    assert again.steps == first.steps
    assert again.history == first.history
    assert again.frozen_verified is True
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").iterdir()} == files


def test_a_run_goes_on_in_another_folder(tiny, tmp_path, monkeypatch, reference):
    with monkeypatch.context() as patch:
        stop_in(patch, "training_step", EPOCH + 4)
        with pytest.raises(Stopped):
            run(tiny, tmp_path / "first")
    last = tmp_path / "first" / "checkpoints" / "last.ckpt"
    result = run(tiny, tmp_path / "second", resume=str(last))
    assert result.resumed_from == last
    assert ending(tmp_path / "second") == reference


@pytest.mark.parametrize(
    ("monitor", "direction"), [("val/accuracy", "max"), ("train/loss", "min")], ids=["another way", "another figure"]
)
def test_a_run_does_not_go_on_by_another_figure(tiny, tmp_path, monitor, direction):
    """best.ckpt is the best epoch by the first one, of which only the figures are left."""
    tiny.fit(tiny.tuning(), tiny.Data(), tmp_path, trainer=tiny.trainer(max_epochs=1))
    told = rf"checkpoint\.direction: val/loss min in the checkpoint, {monitor} {direction} now\ntry"
    with pytest.raises(InputError, match=told):
        tiny.fit(
            tiny.tuning(), tiny.Data(), tmp_path, trainer=tiny.trainer(max_epochs=1),
            checkpoint=tiny.checkpoint(monitor=monitor, direction=direction),
        )  # fmt: skip


def test_never_starts_anew(tiny, tmp_path, reference):
    run(tiny, tmp_path, seed=5)
    result = run(tiny, tmp_path, resume="never")
    assert result.resumed_from is None
    assert ending(tmp_path) == reference


def test_the_checkpoint_holds_tensors_and_primitives_only(tiny, tmp_path):
    """torch.load(weights_only=True) opened it in every test above; here, what it holds."""
    run(tiny, tmp_path)
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(name.startswith("network.") for name in saved["state_dict"])
    names = {name for group in saved["optimizer_states"][0]["param_groups"] for name in group["params"]}
    assert names == {name for name, _ in tiny.network().named_parameters() if tiny.stages.stage_of(name) != "stem"}
    assert set(saved["optimizer_states"][0]["state"]) == names
    assert saved["graft"]["position"] == [3, 0]


def test_what_is_no_primitive_is_not_written(tmp_path):
    with pytest.raises(AssertionError, match=r"/a/b is a Stopped"):
        checkpoint_file.CheckpointFile().save_checkpoint({"a": {"b": Stopped()}}, tmp_path / "x.ckpt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", None])
def test_a_damaged_checkpoint_is_an_error_that_names_it(tiny, tmp_path, damage):
    run(tiny, tmp_path)
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-500] if damage is None else damage)
    last.with_name("previous.ckpt").unlink()
    with pytest.raises(InputError, match=r"resume: .*last\.ckpt, which cannot be read .*try resume=never"):
        run(tiny, tmp_path)


def test_a_checkpoint_that_would_run_code_is_refused(tiny, tmp_path):
    class Evil:
        def __reduce__(self):
            return (shutil.rmtree, (str(tmp_path),))

    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": {}, "graft": Evil()}, path)
    with pytest.raises(InputError, match=r"evil\.ckpt, which cannot be read"):
        run(tiny, tmp_path / "run", resume=str(path))
    assert path.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, r"seed: 0 in the checkpoint, 1 now"),
        ({"freeze": "none", "kind": UnfreezeKind.never, "unfreeze": {}}, r"phases: .* in the checkpoint"),
        ({"scheduler": SchedulerConfig(kind=SchedulerKind.cosine)}, r"learning-rate factors: "),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tiny, tmp_path, changes, message):
    run(tiny, tmp_path)
    with pytest.raises(InputError, match=message):
        run(tiny, tmp_path, **changes)


def damaged(folder, change):
    path = folder / "checkpoints" / "last.ckpt"
    saved = torch.load(path, weights_only=True)
    change(saved)
    torch.save(saved, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda saved: saved["state_dict"].update({"network.fc.weight": torch.zeros(5, 4)}),
            r"\(1 tensors differ\):\n  network\.fc\.weight in shape \(3, 4\), not \(5, 4\)\ntry the configuration",
        ),
        (
            lambda saved: saved["state_dict"].pop("network.bn1.running_var"),
            r"network\.bn1\.running_var, which it lacks",
        ),
        (
            lambda saved: saved["optimizer_states"][0]["state"]["fc.weight"].update(exp_avg=torch.zeros(3, 5)),
            r"expected exp_avg of fc\.weight in shape \(3, 4\), received \(3, 5\)",
        ),
        (
            lambda saved: saved["optimizer_states"][0]["state"].update({"fc.gain": {}}),
            r"received that of fc\.gain",
        ),
        (
            lambda saved: saved["optimizer_states"][0]["param_groups"][-1].update(params=["fc.gain"]),
            r"received others \(head/no_decay differ\)",
        ),
    ],
)
def test_state_that_does_not_fit_is_refused_by_name(tiny, tmp_path, change, message):
    run(tiny, tmp_path)
    damaged(tmp_path, change)
    with pytest.raises(InputError, match=message):
        run(tiny, tmp_path)


def test_an_optimizer_whose_state_has_shapes_of_its_own_goes_on(tiny, tmp_path):
    """Adafactor keeps a row and a column for a matrix, and scalars."""
    tune = {"optimizer": tiny.optimizer(name="adafactor", kwargs={"min_dim_size_to_factor": 1})}
    first = run(tiny, tmp_path, **tune)
    state = torch.load(first.last_path, weights_only=True)["optimizer_states"][0]["state"]
    assert {value.ndim for value in state["fc.weight"].values() if isinstance(value, torch.Tensor)} == {0, 1}
    assert run(tiny, tmp_path, **tune).metrics == first.metrics


def test_a_checkpoint_of_another_donor_is_refused(tiny, tmp_path):
    changes = {"freeze": "layer1-2", "kind": UnfreezeKind.never, "unfreeze": {}}
    run(tiny, tmp_path, **changes)
    other = tiny.tuning(tiny.network(seed=3), **settings(**changes))
    with pytest.raises(InputError, match=r"expected the donor that the checkpoint's run started from"):
        run(tiny, tmp_path, tuning=other)


def test_what_would_change_the_bits_is_refused_with_both_values(tiny, tmp_path):
    run(tiny, tmp_path, shared={"augment.hflip": 0.5, "head.dropout": 0.0})
    with pytest.raises(InputError, match=r"received another:\n  augment\.hflip: 0\.5 in the checkpoint, 0\.0 now\ntry"):
        run(tiny, tmp_path, shared={"augment.hflip": 0.0, "head.dropout": 0.0})


def test_the_phase_of_a_step_needs_none_of_the_steps_before_it(tiny):
    """Asked backwards and of a network that has seen no step: freeze state is a function of progress alone."""
    tuning = tiny.tuning(**settings())
    tuning.adopt(tiny.plan_for(tuning, tiny.Data(), tiny.trainer(max_epochs=3)))
    starts = [tuning.watch.phase_at(step).start_step for step in reversed(range(3 * EPOCH))]
    assert starts == [max(s for s in (0, 4, 10, 16) if s <= step) for step in reversed(range(3 * EPOCH))]
