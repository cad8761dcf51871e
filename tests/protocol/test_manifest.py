import numpy as np
import pytest

from peermerge.protocol.errors import EnvelopeError, Refusal
from peermerge.protocol.limits import ALIGNMENT, MAX_NAME, MAX_PARAMETERS
from peermerge.protocol.manifest import Manifest, TensorSpec, manifest_of

from .frames import manifest_with


def test_tensors_follow_one_another_each_padded_to_a_multiple_of_64() -> None:
    manifest = manifest_with((3, 5), (), (0, 4), (64,), (65,))
    assert manifest.starts.tolist() == [0, 64, 128, 128, 192, 320]
    assert manifest.length == 320
    assert manifest.parameters == 15 + 1 + 0 + 64 + 65
    assert not (manifest.starts % ALIGNMENT).any()


def test_slices_leave_the_padding_out() -> None:
    manifest = manifest_with((3, 5), (), (2,))
    assert [(part.start, part.stop) for _, part in manifest.slices()] == [(0, 15), (64, 65), (128, 130)]


def test_a_manifest_of_nothing_has_length_zero() -> None:
    assert manifest_of([]).length == 0
    assert manifest_of([]).parameters == 0


@pytest.mark.parametrize(
    "other", [("b", (2, 3), "float32", False), ("a", (3, 2), "float32", False), ("a", (2, 3), "float16", False),
              ("a", (2, 3), "float32", True)],
)  # fmt: skip
def test_name_shape_type_and_way_of_publishing_are_in_the_digest(other: tuple[str, tuple[int, ...], str, bool]) -> None:
    assert manifest_of([other]).digest != manifest_of([("a", (2, 3), "float32", False)]).digest


def test_order_is_in_the_digest_and_equal_manifests_share_it() -> None:
    one, two = TensorSpec("a", (2,), "float32", True), TensorSpec("b", (2,), "float32", True)
    assert Manifest((one, two)).digest != Manifest((two, one)).digest
    assert Manifest((one, two)).digest == Manifest((one, two)).digest
    assert len(Manifest(()).digest) == 32


@pytest.mark.parametrize(
    ("tensors", "refusal"),
    [
        ([("a", (1,), "float32", True), ("a", (2,), "float32", True)], Refusal.BAD_HEADER),
        ([("a" * (MAX_NAME + 1), (1,), "float32", True)], Refusal.OVERSIZE),
        ([("a", (MAX_PARAMETERS + 1,), "float32", False)], Refusal.OVERSIZE),
        ([("a", (1,), "int64", True)], Refusal.BAD_DTYPE),
    ],
)
def test_what_no_model_can_be_is_refused(
    tensors: list[tuple[str, tuple[int, ...], str, bool]], refusal: Refusal
) -> None:
    with pytest.raises(EnvelopeError) as caught:
        manifest_of(tensors)
    assert caught.value.refusal is refusal


def test_the_base_digest_depends_on_every_tensor() -> None:
    manifest = manifest_with((4,), (2, 2))
    base = {"t0": np.zeros(4, dtype="<f4").tobytes(), "t1": np.ones(4, dtype="<f4").tobytes()}
    changed = {**base, "t1": np.full(4, 2, dtype="<f4").tobytes()}
    assert manifest.base_digest(base) == manifest.base_digest(dict(reversed(base.items())))
    assert manifest.base_digest(base) != manifest.base_digest(changed)
