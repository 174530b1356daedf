"""``llm2clip-search bench``: retrieval quality of encoders, speed of the indexer, cost of training."""

import typer

from llm2clip_search.cli.bench.ablations import bench_ablations
from llm2clip_search.cli.bench.ann import bench_ann
from llm2clip_search.cli.bench.captions import bench_captions
from llm2clip_search.cli.bench.cluster import bench_cluster
from llm2clip_search.cli.bench.compare import bench_compare
from llm2clip_search.cli.bench.datasets import bench_datasets
from llm2clip_search.cli.bench.engines import bench_engines
from llm2clip_search.cli.bench.evaluation import bench_evaluation
from llm2clip_search.cli.bench.failures import bench_failures
from llm2clip_search.cli.bench.feeding import bench_feeding
from llm2clip_search.cli.bench.lengths import bench_lengths
from llm2clip_search.cli.bench.no_answer import bench_no_answer
from llm2clip_search.cli.bench.opening import bench_opening
from llm2clip_search.cli.bench.report import bench_report
from llm2clip_search.cli.bench.retrieval import bench_retrieval
from llm2clip_search.cli.bench.scale import bench_scale
from llm2clip_search.cli.bench.serve import bench_serve
from llm2clip_search.cli.bench.simulate import bench_simulate_indexing, bench_simulate_serving
from llm2clip_search.cli.bench.sources import bench_sources
from llm2clip_search.cli.bench.speed import bench_speed
from llm2clip_search.cli.bench.sugarcrepe import bench_sugarcrepe
from llm2clip_search.cli.bench.suite import bench_suite
from llm2clip_search.cli.bench.training import training
from llm2clip_search.cli.bench.zero_shot import bench_zero_shot

bench = typer.Typer(no_args_is_help=True, help="Measure recall and speed.")
bench.command("retrieval")(bench_retrieval)
bench.command("suite")(bench_suite)
bench.command("compare")(bench_compare)
bench.command("report")(bench_report)
bench.command("datasets")(bench_datasets)
bench.command("captions")(bench_captions)
bench.command("lengths")(bench_lengths)
bench.command("zero-shot")(bench_zero_shot)
bench.command("sugarcrepe")(bench_sugarcrepe)
bench.command("no-answer")(bench_no_answer)
bench.command("failures")(bench_failures)
bench.command("training")(training)
bench.command("ablations")(bench_ablations)
bench.command("ann")(bench_ann)
bench.command("speed")(bench_speed)
bench.command("sources")(bench_sources)
bench.command("scale")(bench_scale)
bench.command("engines")(bench_engines)
bench.command("simulate-indexing")(bench_simulate_indexing)
bench.command("simulate-serving")(bench_simulate_serving)
bench.command("serve")(bench_serve)
bench.command("feeding")(bench_feeding)
bench.command("opening")(bench_opening)
bench.command("cluster")(bench_cluster)
bench.command("evaluation")(bench_evaluation)
