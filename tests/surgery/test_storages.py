"""The last write into a storage is found through every tensor that shares it."""

import torch

from accuracy_booster.surgery.storages import Writes, overlaps


def test_a_write_is_found_through_views_that_overlap_it():
    x = torch.zeros(4, 6)
    writes = Writes[str]()
    assert writes.last(x) is None
    writes.note(x[1:3], "rows 1 and 2")
    for view in (x, x[2], x.view(-1)[:7], x.t()):
        last = writes.last(view)
        assert last is not None
        assert last.value == "rows 1 and 2"
        assert overlaps(view, last)
    for view in (x[0], x[3]):
        last = writes.last(view)
        assert last is not None
        assert not overlaps(view, last)
    assert writes.last(torch.zeros(4, 6)) is None


def test_the_last_of_two_writes_counts():
    x = torch.zeros(3)
    writes = Writes[int]()
    writes.note(x, 1)
    writes.note(x[:1], 2)
    last = writes.last(x)
    assert last is not None
    assert last.value == 2


def test_a_tensor_without_a_storage_has_no_writes():
    sparse = torch.eye(2).to_sparse()
    writes = Writes[int]()
    writes.note(sparse, 1)
    assert writes.last(sparse) is None
