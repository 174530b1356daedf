"""Both stages with tiny random towers: kills and resumed runs, one and two ranks, golden losses, refusals."""

import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from llm2clip_search.base.progress import no_progress
from llm2clip_search.cluster.pool import ClusterConfig
from llm2clip_search.encoders import load_encoder
from llm2clip_search.errors import ModelError, StoreError
from llm2clip_search.training import Recipe, stages
from llm2clip_search.training.data.augmentation import Augmentation
from llm2clip_search.training.data.caption_store import CaptionStore
from llm2clip_search.training.data.training_captions import read_stage2_captions
from llm2clip_search.training.runtime.distributed import Sharding, World, join_process_group
from llm2clip_search.training.runtime.gradcache import backward_in_parts
from llm2clip_search.training.runtime.metrics_log import read_metrics
from llm2clip_search.training.tasks import caption_llm
from llm2clip_search.training.tasks.vision_training import VisionTraining
from tests.support.tiny_stages import Stage, embed, run
from tests.support.tiny_training import LANGS
from tests.support.toy_training import free_port, start


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(folder / "metrics.jsonl") if "loss" in line]


def assert_same_tensors(one: Path, other: Path) -> None:
    a, b = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def test_the_model_folder_gives_the_recalls_of_training(recipe: Recipe, root: Path, made: Path, tmp_path: Path) -> None:
    """The finished folder, loaded like any model, has the dev recalls that training reported."""
    from llm2clip_search.benchmarks.datasets.captioned_shards import read_captioned_shards
    from llm2clip_search.benchmarks.retrieval import measure_retrieval

    figures = run("clip", recipe, root, made, made / "model")  # completed: returns its metrics
    encoder = load_encoder(f"dir:{made / 'model'}", runtime="torch", device="cpu")
    (result,) = measure_retrieval(encoder, read_captioned_shards(root / "flickr8k", "dev", ("en",), name="flickr8k"))
    for name, value in result.metrics.items():
        # One caption of 30 may flip in half precision.
        assert value == pytest.approx(figures[f"flickr8k/en/{name}"], abs=0.04)
    assert not list((made / "model").glob("views-*"))


@pytest.mark.parametrize("querybank", [0.0, 0.7])
def test_a_folder_with_a_frozen_tower_and_pooled_modules_is_complete(
    querybank: float, recipe: Recipe, root: Path, made: Path, tmp_path: Path
) -> None:
    """It holds only the projection and the querybank of the tower, and gives the recalls of training."""
    from llm2clip_search.benchmarks.datasets.captioned_shards import read_captioned_shards
    from llm2clip_search.benchmarks.retrieval import measure_retrieval

    model = replace(recipe.stage2.model, querybank=querybank)
    assert len(model.vision.pooled_modules) == 2
    clip = replace(recipe.stage2, model=model, vision=VisionTraining(mode="frozen"), querybank_size=5)
    figures = run("clip", replace(recipe, stage2=clip), root, made, tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    banks = {f"vision.querybank.{name}" for name in ("bank", "scale", "offset")} if querybank else set()
    assert {name for name in tensors if name.startswith("vision.")} == banks | {
        "vision.projection.weight",
        "vision.projection.bias",
    }
    width = 510 if querybank else 512
    assert tensors["vision.projection.weight"].shape[0] == width
    assert [t.shape for name, t in tensors.items() if name.endswith(".bank")] == [(5, width)] * (2 if querybank else 0)
    encoder = load_encoder(f"dir:{tmp_path / 'model'}", runtime="onnx", device="cpu")
    (result,) = measure_retrieval(encoder, read_captioned_shards(root / "flickr8k", "dev", ("en",), name="flickr8k"))
    for name, value in result.metrics.items():
        # One caption of 30 may flip in half precision.
        assert value == pytest.approx(figures[f"flickr8k/en/{name}"], abs=0.04)


def test_cached_pixels_train_a_whole_tower_like_fresh_ones(
    recipe: Recipe, root: Path, made: Path, tmp_path: Path
) -> None:
    """Without augmentation all views are equal, so that the losses are too, to the bit."""
    clip = replace(
        recipe.stage2,
        vision=VisionTraining(mode="full"),
        augmentation=Augmentation(crop=1.0),
        loop=replace(recipe.stage2.loop, steps=4, warmup_steps=1),
    )
    for views in (0, 2):
        run("clip", replace(recipe, stage2=replace(clip, kept_views=views)), root, made, tmp_path / str(views))
    assert losses(tmp_path / "0") == losses(tmp_path / "2")
    assert len(losses(tmp_path / "0")) == 4


def test_a_run_writes_plots_and_logs(made: Path) -> None:
    for stage in ("llm", "model"):
        for name in ("training.png", "similarity.png", "run.json", "metrics.jsonl", "tokenizer.json"):
            assert (made / stage / name).stat().st_size > 0, name
        assert list((made / stage).glob("events.*"))


def test_the_model_card_describes_the_model_and_its_metrics(recipe: Recipe, root: Path, made: Path) -> None:
    figures = run("clip", recipe, root, made, made / "model")
    card = (made / "model" / "README.md").read_text(encoding="utf-8")
    for part in (
        "# nano",
        "test_efficientnet at 64x64",
        "last 2 blocks trained",
        "8 steps of 4 images",
        "seed 0",
        "CC BY-NC",
    ):
        assert part in card
    assert f"| flickr8k, en | {100 * figures['flickr8k/en/image_retrieval_recall@1']:.1f} / " in card
    assert card.count("\n| ") == 5 + 1 + len(LANGS)


def train_and_die(stage: Stage, recipe: Recipe, root: Path, made: Path, out: Path, step: int) -> None:
    torch.set_num_threads(1)

    def report(what: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        if what == "training" and done == step:
            os.kill(os.getpid(), signal.SIGKILL)

    run(stage, recipe, root, made, out, progress=report)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["captions", "clip"])
def test_a_killed_run_ends_with_the_same_weights(
    stage: Stage, recipe: Recipe, root: Path, made: Path, tmp_path: Path
) -> None:
    """Killed before and after checkpoints and evaluations, it ends with the same bits."""
    for step in (2, 5, 7):
        process = start(train_and_die, stage, recipe, root, made, tmp_path, step)
        process.join()
        assert process.exitcode == -signal.SIGKILL
    torch.set_num_threads(1)
    run(stage, recipe, root, made, tmp_path)
    whole = made / ("llm" if stage == "captions" else "model")
    assert_same_tensors(tmp_path, whole)
    assert losses(tmp_path) == losses(whole)


def test_a_killed_embedding_continues_after_the_last_shard(
    recipe: Recipe, root: Path, made: Path, tmp_path: Path
) -> None:
    process = start(embed_and_die, recipe, root, made, tmp_path)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    done, rows = embed(recipe, root, made / "llm", tmp_path)
    assert 0 < done < rows
    whole, again = CaptionStore(made / "store"), CaptionStore(tmp_path)
    assert len(whole) == len(again) == rows
    ids = read_stage2_captions(recipe.data, root)[0]["caption_id"].to_numpy()
    a, b = (store.embeddings(store.positions(ids)).astype(np.float32) for store in (whole, again))
    np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3)  # the batches differ, and so does rounding


@pytest.mark.slow
def test_captions_embedded_on_a_cluster_are_those_of_this_process(
    recipe: Recipe, root: Path, made: Path, tmp_path: Path, ray_address: str
) -> None:
    stages.train_embed(
        recipe.stage2,
        recipe.data,
        root=root,
        llm=made / "llm",
        out=tmp_path / "captions",
        device="cpu",
        cluster=ClusterConfig(address=ray_address),
        progress=no_progress,
    )
    names = sorted(path.name for path in (made / "store").glob("*.arrow"))
    assert names == sorted(path.name for path in (tmp_path / "captions").glob("*.arrow"))
    for name in names:
        assert (tmp_path / "captions" / name).read_bytes() == (made / "store" / name).read_bytes()


def embed_and_die(recipe: Recipe, root: Path, made: Path, out: Path) -> None:
    def report(what: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        if done > 16:
            os.kill(os.getpid(), signal.SIGKILL)

    stages.train_embed(
        recipe.stage2,
        recipe.data,
        root=root,
        llm=made / "llm",
        out=out,
        device="cpu",
        shard_rows=16,
        progress=report,
    )


def without_dropout(recipe: Recipe) -> Recipe:
    """Dropout and noise depend on the number of ranks."""
    captions = replace(recipe.stage1, lora=replace(recipe.stage1.lora, dropout=0.0))
    clip = replace(recipe.stage2, vision_dropout=0.0, text_dropout=0.0, caption_noise=0.0)
    return replace(recipe, stage1=captions, stage2=clip)


def train_on_ranks(rank: int, port: int, runs: list[dict[str, Any]]) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    for arguments in runs:
        run(world=join_process_group("cpu", arguments.pop("sharding")), **arguments)
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_train_like_one_with_the_whole_batch(recipe: Recipe, root: Path, made: Path, tmp_path: Path) -> None:
    """Replicated and sharded, with and without gradient caching, the losses equal those of one rank."""
    plain = without_dropout(recipe)
    cached = replace(
        plain,
        stage1=replace(plain.stage1, gradient_cache=True),
        stage2=replace(plain.stage2, gradient_cache=True, kept_views=0, vision=VisionTraining(mode="full")),
    )
    runs: list[dict[str, Any]] = []
    modes: tuple[Sharding, ...] = ("replicate", "shard")
    for stage in ("captions", "clip"):
        for name, chosen in (("plain", plain), ("cached", cached)):
            common: dict[str, Any] = {"stage": stage, "recipe": chosen, "root": root, "made": made}
            run(out=tmp_path / f"{stage}-{name}-one", **common)
            # A sharded tower cannot have cached views.
            runs += [
                {**common, "out": tmp_path / f"{stage}-{name}-{mode}", "sharding": mode}
                for mode in modes
                if (stage, name, mode) != ("clip", "plain", "shard")
            ]
    port = free_port()
    processes = [start(train_on_ranks, rank, port, runs) for rank in range(2)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    for arguments in runs:
        folder: Path = arguments["out"]
        one = folder.parent / f"{folder.name.rpartition('-')[0]}-one"
        assert losses(folder) == pytest.approx(losses(one), rel=2e-3), folder.name


GOLDEN: dict[Stage, list[float]] = {
    "captions": [0.390954, 0.798573, 0.39979, 1.51262, 0.00303868],
    "clip": [1.73318, 1.16224, 1.58843, 1.22889, 2.10696],
}
"""Losses of `nano` at steps 1, 5, 10, 15 and 20, with eight cached views, and half of the captions long."""


@pytest.mark.parametrize("stage", ["captions", "clip"])
def test_twenty_golden_steps(stage: Stage, recipe: Recipe, root: Path, made: Path, tmp_path: Path) -> None:
    """If these values change, training has changed: give the reason in the commit that updates them."""
    torch.set_num_threads(1)
    longer = replace(
        recipe,
        stage1=replace(recipe.stage1, loop=replace(recipe.stage1.loop, steps=20)),
        stage2=replace(recipe.stage2, loop=replace(recipe.stage2.loop, steps=20)),
    )
    run(stage, longer, root, made, tmp_path)
    found = losses(tmp_path)
    assert len(found) == 20
    assert [found[step - 1] for step in (1, 5, 10, 15, 20)] == pytest.approx(GOLDEN[stage], rel=1e-3)


def test_long_captions_change_memory_and_nothing_else(
    recipe: Recipe, root: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches that are embedded twice, because they are longer than planned, have the gradients of all others."""
    torch.set_num_threads(1)
    lora = replace(recipe.stage1.lora, dropout=0.0)  # its draws belong to micro-batches
    exact = replace(recipe, stage1=replace(recipe.stage1, lora=lora, bf16=False))
    divided = list[bool]()
    for name, planned in (("short", 1000.0), ("long", 0.2)):
        monkeypatch.setattr(caption_llm, "PLANNED", planned)

        def backward(*args: Any, cache: bool, **options: Any) -> torch.Tensor:
            divided.append(cache)
            return backward_in_parts(*args, cache=cache, **options)

        monkeypatch.setattr(caption_llm, "backward_in_parts", backward)
        run("captions", exact, root, made, tmp_path / name)
    steps = recipe.stage1.loop.steps
    assert divided == [False] * steps + [True] * steps
    assert losses(tmp_path / "long") == pytest.approx(losses(tmp_path / "short"), rel=1e-4)


def test_a_store_of_another_llm_is_refused_with_both_names(
    recipe: Recipe, root: Path, made: Path, tmp_path: Path
) -> None:
    other = replace(recipe, stage1=replace(recipe.stage1, loop=replace(recipe.stage1.loop, seed=1)))
    run("captions", other, root, made, tmp_path / "llm")
    store = CaptionStore(made / "store").info.llm
    with pytest.raises(StoreError, match=f"{store}.*{tmp_path / 'llm'}"):
        stages.train_clip(
            recipe.stage2,
            recipe.data,
            root=root,
            llm=tmp_path / "llm",
            store=made / "store",
            out=tmp_path / "model",
            world=World(),
            progress=no_progress,
        )
    with pytest.raises(StoreError, match="holds embeddings of LLM") as raised:
        embed(recipe, root, tmp_path / "llm", made / "store")
    assert "--out" in raised.value.hint


def test_a_non_finite_loss_keeps_the_last_good_checkpoint(
    recipe: Recipe, root: Path, made: Path, tmp_path: Path
) -> None:
    broken = replace(
        recipe.stage2, loop=replace(recipe.stage2.loop, learning_rate=1e30, clip_norm=0.0, checkpoint_every=1)
    )
    with pytest.raises(
        ModelError, match=r"is (nan|inf) at step \d of 8, .*last good checkpoint is step \d in .*last\.pt"
    ):
        run("clip", replace(recipe, stage2=broken), root, made, tmp_path)
    assert all(torch.isfinite(t).all() for t in torch.load(tmp_path / "last.pt")["weights"].values())
