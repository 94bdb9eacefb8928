"""Claims about training data: batches are pure functions of (seed, epoch, position), whatever reads them."""

import logging
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from ampguard.errors import ConfigError, TaskError
from ampguard.task import Task
from ampguard.training.data import TrainData, open_train_data, val_batches

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def task(train_data, **more) -> Task:
    return Task(name="t", model=torch.nn.Identity, loss=lambda m, b: b.mean(), train_data=train_data, **more)


def opened(train_data, *, batch_size: int | None = 4, seed: int = 0, workers: int | None = None, **more) -> TrainData:
    return open_train_data(task(train_data, **more), batch_size=batch_size, seed=seed, workers=workers)


class Augmented(Dataset[Tensor]):
    """Samples that carry their index and a draw from each global generator."""

    def __len__(self) -> int:
        return 18

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor([index, torch.rand(()).item(), random.random(), np.random.rand()], dtype=torch.float64)


class Shuffled:
    """Ready batches in an order drawn from the global generator when an epoch is opened."""

    def __init__(self, batches: int = 6) -> None:
        self.count = batches
        self.epochs: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Tensor]:
        for index in torch.randperm(self.count).tolist():
            yield torch.full((4,), float(index)) + torch.rand(4)


class Stateful:
    """Ready batches 0 to 5; knows where it stands, and counts what it was asked to make."""

    def __init__(self) -> None:
        self.at = self.made = 0

    def __iter__(self) -> Iterator[Tensor]:
        while self.at < 6:
            self.at += 1
            self.made += 1
            yield torch.full((4,), float(self.at - 1))
        self.at = 0

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


class Numbers(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.arange(10.0))


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return len(left) == len(right) and all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def global_state() -> tuple[object, ...]:
    kind, keys, *rest = np.random.get_state()
    return torch.get_rng_state().tolist(), random.getstate(), kind, keys.tolist(), rest


def test_two_workers_yield_the_batches_of_none_bit_for_bit():
    plain, worked = opened(Augmented()), opened(Augmented(), workers=2)
    for epoch, position in ((0, 0), (1, 2)):
        assert same(list(plain.batches(epoch, position)), list(worked.batches(epoch, position)))


def test_any_position_is_reached_as_if_never_interrupted():
    whole = list(opened(Augmented()).batches(3))
    assert len(whole) == opened(Augmented()).batches_per_epoch == 5
    for position in range(6):
        assert same(list(opened(Augmented()).batches(3, position)), whole[position:])


def test_an_epoch_holds_every_sample_once_with_a_short_last_batch():
    batches = list(opened(Augmented()).batches(0))
    assert [len(batch) for batch in batches] == [4, 4, 4, 4, 2]
    assert sorted(torch.cat(batches)[:, 0].tolist()) == list(range(18))


def test_seed_and_epoch_change_order_and_draws():
    first = torch.cat(list(opened(Augmented()).batches(0)))
    for other in (opened(Augmented()).batches(1), opened(Augmented(), seed=1).batches(0)):
        assert not torch.equal(first[:, 0], torch.cat(list(other))[:, 0])
    again = torch.cat(list(opened(Augmented()).batches(1)))
    draws = [{row[0]: row[column] for row in table.tolist()} for table in (first, again) for column in (1, 2, 3)]
    assert all(a[0.0] != b[0.0] for a, b in zip(draws[:3], draws[3:], strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_leaves_the_global_generators_alone(workers):
    data, stream = opened(Augmented(), workers=workers), opened(Shuffled())
    before = global_state()
    iterator = data.batches(0)
    assert global_state() == before
    next(iterator)
    data.peek()
    next(stream.batches(0))
    list(val_batches(task([], val_data=Augmented()), 4, workers=workers))
    list(val_batches(task([], val_data=Shuffled()), 4))
    assert global_state() == before


def test_batches_do_not_depend_on_the_global_generators():
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    first = list(opened(Augmented()).batches(0))
    torch.manual_seed(2), random.seed(2), np.random.seed(2)
    assert same(first, list(opened(Augmented()).batches(0)))


def test_random_collating_is_keyed_too():
    def masked(samples: list[Tensor]) -> Tensor:
        return torch.stack(samples) * torch.bernoulli(torch.full((len(samples), 1), 0.5))

    data = TensorDataset(torch.arange(1.0, 13.0))
    first = list(opened(data, collate=lambda rows: masked([row[0] for row in rows])).batches(0))
    torch.manual_seed(7)
    assert same(first[1:], list(opened(data, collate=lambda rows: masked([row[0] for row in rows])).batches(0, 1)))


def test_a_dataloader_is_taken_apart_and_keeps_what_is_not_sampling():
    def doubled(samples: list[Tensor]) -> Tensor:
        return 2 * torch.stack(samples)

    loader = DataLoader(torch.arange(10.0), batch_size=3, shuffle=True, collate_fn=doubled, drop_last=True)
    data = opened(loader, batch_size=None)
    assert (data.batch_size, data.batches_per_epoch) == (3, 3)
    batches = list(data.batches(0))
    assert [len(batch) for batch in batches] == [3, 3, 3]
    assert set(torch.cat(batches).tolist()) < {2.0 * n for n in range(10)}
    assert opened(loader, batch_size=5).batch_size == 5


def test_a_dataloader_over_a_list_yields_its_samples_once_each():
    data = opened(DataLoader([float(n) for n in range(8)], batch_size=2, shuffle=True))  # type: ignore[arg-type]
    assert sorted(torch.cat(list(data.batches(0))).tolist()) == [float(n) for n in range(8)]


def test_the_task_collate_goes_before_the_dataloaders_own():
    loader = DataLoader(torch.arange(4.0), batch_size=2, shuffle=True)
    data = opened(loader, batch_size=None, collate=lambda samples: -torch.stack(samples))
    assert sorted(torch.cat(list(data.batches(0))).tolist()) == [-3.0, -2.0, -1.0, 0.0]


def test_an_order_that_is_dropped_is_named_in_a_warning(caplog):
    opened(DataLoader(torch.arange(8.0), batch_size=2))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "with a SequentialSampler, which is not used" in caplog.text


@pytest.mark.parametrize(
    "sampler",
    [
        SubsetRandomSampler(range(5)),
        WeightedRandomSampler([1.0] * 8, 8),
        RandomSampler(range(8), replacement=True),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_a_sampler_that_selects_is_refused_because_another_order_would_undo_it(sampler):
    with pytest.raises(TaskError, match=f"with a {type(sampler).__name__}, which selects samples"):
        opened(DataLoader(torch.arange(8.0), batch_size=2, sampler=sampler))


def test_a_shuffling_dataloader_needs_no_warning(caplog):
    opened(DataLoader(torch.arange(8.0), batch_size=2, shuffle=True))
    assert not caplog.records


def test_an_iterable_that_draws_its_order_resumes_exactly_and_says_how(caplog):
    whole = list(opened(Shuffled()).batches(2))
    stream = Shuffled()
    torch.manual_seed(9)
    assert same(list(opened(stream).batches(2, 4)), whole[4:])
    assert stream.epochs == [2]
    assert "read again from the start of epoch 3 up to batch 4" in caplog.text
    assert opened(stream).batches_per_epoch == 6
    assert not torch.equal(torch.cat(whole), torch.cat(list(opened(Shuffled()).batches(1))))


def test_an_iterable_with_state_goes_on_without_making_old_batches_again(caplog):
    reader = opened(Stateful())
    batches = reader.batches(0)
    read = [next(batches) for _ in range(4)]
    state = reader.state_dict()
    stream = Stateful()
    resumed = opened(stream)
    resumed.load_state_dict(state)
    resumed.peek()
    assert same(list(resumed.batches(0, 4)), list(batches))
    assert len(read) == 4
    assert stream.made == 3  # one of them for the look
    assert not caplog.records
    assert len(list(resumed.batches(1))) == 6


def test_state_saved_at_the_end_of_an_epoch_opens_the_next_one():
    class Ended(Stateful):
        def __iter__(self) -> Iterator[Tensor]:
            yield from super().__iter__() if self.at < 6 else ()
            self.at = 0

    resumed = opened(Ended())
    resumed.load_state_dict({"stream": {"at": 6}})
    assert len(list(resumed.batches(1, 0))) == 6


def ready_batches() -> Iterator[Tensor]:
    yield from torch.arange(12.0).reshape(3, 4)


def test_a_generator_is_read_once_and_an_untouched_one_can_be_resumed():
    data = opened(ready_batches())
    assert torch.equal(data.peek(), torch.arange(4.0))
    assert len(list(data.batches(0))) == 3
    with pytest.raises(TaskError, match="generator, which can be read only once, and batch 0 of epoch 2"):
        data.batches(1)
    assert torch.equal(next(opened(ready_batches()).batches(0, 2)), torch.arange(8.0, 12.0))


@pytest.mark.parametrize("spent", [False, True])
def test_an_iterator_that_may_have_been_read_cannot_be_resumed(spent):
    stream = ready_batches() if spent else iter(list(ready_batches()))
    if spent:
        next(stream)
    with pytest.raises(TaskError, match="read only once, and batch 2 of epoch 1"):
        opened(stream).batches(0, 2)


def test_samples_of_an_iterable_dataset_are_gathered():
    batches = list(opened(Numbers()).batches(0))
    assert [batch.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_batch_size_that_nobody_gave_is_the_loaders_own_or_32_or_all_there_is():
    assert opened(DataLoader(TensorDataset(torch.arange(50)), batch_size=7), batch_size=None).batch_size == 7
    assert opened(TensorDataset(torch.arange(50)), batch_size=None).batch_size == 32
    assert opened(TensorDataset(torch.arange(9)), batch_size=None).batch_size == 9
    assert [len(batch) for batch in opened(Numbers(), batch_size=None).batches(0)] == [10]


def test_ready_batches_of_another_size_are_trained_on_and_said(caplog):
    data = opened([torch.zeros(3), torch.zeros(3)], batch_size=4)
    assert len(list(data.batches(0))) == len(list(data.batches(1))) == 2
    assert len(caplog.records) == 1
    assert "ready batches of 3 samples" in caplog.text


@pytest.mark.parametrize("empty", [TensorDataset(torch.zeros(0)), [], iter(()), 5])
def test_no_data_is_an_error_that_says_so(empty):
    with pytest.raises(TaskError, match=r"train_data is (empty|a )"):
        list(opened(empty).batches(0))


def test_a_batch_larger_than_the_data_names_both_numbers():
    with pytest.raises(ConfigError, match="batch_size is 19, but train_data has only 18 samples") as caught:
        opened(Augmented(), batch_size=19)
    assert "at most 18" in caught.value.hint


@pytest.mark.parametrize("size", [0, -1])
def test_a_senseless_batch_size_is_refused(size):
    with pytest.raises(ConfigError, match=f"batch_size is {size}"):
        opened(Augmented(), batch_size=size)


def test_a_position_past_the_data_is_an_error_of_the_data():
    with pytest.raises(TaskError, match=r"batch 6 .* an epoch has 5 batches"):
        opened(Augmented()).batches(0, 6)
    with pytest.raises(TaskError, match="ended after 6 batches, but the run stood at batch 7"):
        list(opened(Shuffled()).batches(0, 7))


def test_validation_is_in_order_and_the_same_each_time():
    checked = task([], val_data=Augmented())
    first = list(val_batches(checked, 8))
    assert torch.cat(first)[:, 0].tolist() == list(range(18))
    assert same(first, list(val_batches(checked, 8)))
    assert same(first, list(val_batches(checked, 8, workers=2)))
    assert [len(batch) for batch in val_batches(checked, 100)] == [18]


def test_validation_keeps_a_dataloaders_choice_of_samples():
    chosen = DataLoader(torch.arange(8.0), batch_size=2, sampler=[5, 1, 3])
    assert [batch.tolist() for batch in val_batches(task([], val_data=chosen), 4)] == [[5, 1], [3]]
    shuffled = DataLoader(torch.arange(4.0), batch_size=2, shuffle=True)
    assert [batch.tolist() for batch in val_batches(task([], val_data=shuffled), None)] == [[0, 1], [2, 3]]


def test_validation_data_that_yield_nothing_are_an_error():
    once = task([], val_data=ready_batches())
    assert len(list(val_batches(once, 4))) == 3
    for empty in (once, task([], val_data=[]), task([], val_data=TensorDataset(torch.zeros(0)))):
        with pytest.raises(TaskError, match="yielded no batch"):
            list(val_batches(empty, 4))
    assert list(val_batches(task([]), 4)) == []
