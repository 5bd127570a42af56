"""What a run makes, loaded with the libraries that people train with: archives with webdataset and datasets, the table
with pandas and pyarrow.

    .archives/venv/bin/python tests/archives/load.py target/debug/diorama models/demo
"""

import glob
import json
import os
import subprocess
import sys
import tempfile

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1")

import datasets
import pandas
import pyarrow.parquet
import webdataset
from PIL import Image

# Rows that differ in everything that may differ: number of subjects, method, length of the prompt, settings, ids.
ROWS = [
    {"custom_id": "one.subject", "prompt": "a red circle on a beach", "subjects": ["circle"]},
    {"custom_id": "two.subjects", "prompt": "a red circle and a blue square", "subjects": ["circle", "square"]},
    {"custom_id": "no_mask", "prompt": "a red circle", "method": "img2img", "guidance": 3},
    {"custom_id": "nouns", "prompt": "a green triangle at night", "steps": 5, "seed": 7},
    {"custom_id": "long", "prompt": "a red circle " + "and a very long road " * 30, "subjects": ["circle"], "guidance": 2.5},
    {"custom_id": "padded", "prompt": 'a "red" circle, größer', "subjects": ["circle"], "fit": "pad"},
    {"custom_id": "another", "prompt": "a blue circle", "subjects": ["circle"], "threshold": 1},
]
MEMBERS = {"png", "mask.png", "overlay.png", "heatmap.png", "compare.img2img-reduced.png", "reference.png", "record", "json", "txt"}


def make(program, model, folder):
    """Runs the rows into archives of two samples, and gives the run's folder."""
    Image.linear_gradient("L").resize((96, 64)).convert("RGB").save(f"{folder}/place.png")
    with open(f"{folder}/rows.jsonl", "w", encoding="utf-8") as manifest:
        for row in ROWS:
            manifest.write(json.dumps({"reference": "place.png", "steps": 4, "edit_steps": [1], **row}) + "\n")
    command = [program, "run", f"{folder}/rows.jsonl", "--model", model, "--out", f"{folder}/out", "--format", "webdataset"]
    command += ["--shard-size", "2", "--compare", "img2img-reduced", "--keep-references", "true"]
    subprocess.run(command, check=True)
    return f"{folder}/out"


def check_samples(samples, what):
    """Samples by key, as a library gives them, against the rows."""
    assert len(samples) == len(ROWS), f"{what}: {len(samples)} samples of {len(ROWS)}"
    by_key = {sample["__key__"].rsplit("/", 1)[-1].replace("%2E", "."): sample for sample in samples}
    for row in ROWS:
        sample = by_key[row["custom_id"]]
        members = {name for name in sample if not name.startswith("__")}
        assert members == MEMBERS, f"{what}: {row['custom_id']} has {sorted(members)}"
        prompt, metadata, record = sample["txt"], sample["json"], json.loads(sample["record"])
        assert prompt == metadata["prompt"] == record["prompt"] == row["prompt"], f"{what}: {prompt!r}"
        assert metadata["custom_id"] == row["custom_id"] and metadata["seed"] == record["seed"], f"{what}: {metadata}"
        subjects = [subject["text"] for subject in record["subjects"]]
        width, height = sample["png"].size
        for name in MEMBERS - {"json", "txt", "record", "heatmap.png"}:
            assert sample[name].size == (width, height), f"{what}: {name} of {row['custom_id']}: {sample[name].size}"
        maps = max(1, len(subjects))
        assert sample["heatmap.png"].size == (width * maps, height), f"{what}: {sample['heatmap.png'].size} of {subjects}"
    print(f"{what}: {len(samples)} samples, each with {len(MEMBERS)} members")


def with_webdataset(archives):
    pipeline = webdataset.WebDataset(archives, shardshuffle=False, empty_check=False).decode("pil")
    check_samples(list(pipeline), "webdataset")


def with_datasets(archives, cache, streaming):
    found = datasets.load_dataset(
        "webdataset", data_files={"train": archives}, split="train", streaming=streaming, cache_dir=None if streaming else cache
    )
    check_samples([dict(sample) for sample in found], f"datasets, streaming: {streaming}")


def tables(out):
    lines = [json.loads(line) for line in open(f"{out}/results.jsonl", encoding="utf-8")]
    table = pyarrow.parquet.read_table(f"{out}/results.parquet").to_pylist()
    frame = pandas.read_parquet(f"{out}/results.parquet")
    assert len(table) == len(frame) == len(lines) == len(ROWS)
    for row, line, cells in zip(ROWS, lines, table):
        assert cells["custom_id"] == line["custom_id"] == row["custom_id"]
        assert (cells["prompt"], cells["seed"]) == (row["prompt"], line["seed"])
        assert cells["image"] == line["files"]["image"]["path"] and cells["archive"] == line["archive"]
        for name, score in line.get("scores", {}).items():
            assert cells[name] == score, name
        wanted = row.get("subjects")
        assert wanted is None or cells["subjects"] == wanted, cells["subjects"]
    assert frame["mask_coverage"].dtype == "float64" and frame["task"].dtype == "int64"
    print(f"pandas and pyarrow: {len(frame)} rows, {len(frame.columns)} columns: {', '.join(frame.columns)}")


def main(program, model):
    with tempfile.TemporaryDirectory() as folder:
        out = make(program, model, folder)
        archives = sorted(glob.glob(f"{out}/shards/*.tar"))
        assert len(archives) == 4, archives
        with_webdataset(archives)
        with_datasets(archives, f"{folder}/cache", streaming=True)
        with_datasets(archives, f"{folder}/cache", streaming=False)
        tables(out)


main(*sys.argv[1:3])
