"""CLIP's byte-pair vocabulary (49,408 tokens, the one of Stable Diffusion) as a diffusers
tokenizer folder. The merges come from the PyPI package open_clip_torch (MIT):

    pip download --no-deps open_clip_torch -d DIR
    python make_tokenizer.py DIR OUT_FOLDER
"""
import glob
import gzip
import json
import os
import sys
import zipfile

VOCABULARY, BYTES, SPECIAL = 49408, 256, 2
START, END = "<|startoftext|>", "<|endoftext|>"


def read_merges(folder):
    wheel = zipfile.ZipFile(glob.glob(f"{folder}/open_clip_torch-*.whl")[0])
    name = next(n for n in wheel.namelist() if n.endswith("bpe_simple_vocab_16e6.txt.gz"))
    lines = gzip.decompress(wheel.read(name)).decode().split("\n")
    return lines[1:VOCABULARY - 2 * BYTES - SPECIAL + 1]


def byte_characters():
    """One printable character for each byte, in CLIP's order (as in GPT-2)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = [b for b in range(BYTES) if b not in printable]
    return [chr(b) for b in printable] + [chr(BYTES + k) for k in range(len(other))]


def main(source, out):
    os.makedirs(out, exist_ok=True)
    merges, characters = read_merges(source), byte_characters()
    tokens = characters + [c + "</w>" for c in characters] + ["".join(m.split()) for m in merges] + [START, END]
    assert len(tokens) == len(set(tokens)) == VOCABULARY
    special = lambda text, normalized: {"content": text, "lstrip": False, "normalized": normalized, "rstrip": False, "single_word": False}
    files = {
        "vocab.json": {t: i for i, t in enumerate(tokens)},
        "special_tokens_map.json": {"bos_token": special(START, True), "eos_token": special(END, False),
                                    "pad_token": END, "unk_token": special(END, False)},
        "tokenizer_config.json": {"add_prefix_space": False, "bos_token": START, "do_lower_case": True, "eos_token": END,
                                  "errors": "replace", "model_max_length": 77, "pad_token": END,
                                  "tokenizer_class": "CLIPTokenizer", "unk_token": END},
    }
    for name, content in files.items():
        with open(f"{out}/{name}", "w", encoding="utf-8") as f:
            json.dump(content, f, ensure_ascii=False, **({} if name == "vocab.json" else {"indent": 2}))
    with open(f"{out}/merges.txt", "w", encoding="utf-8") as f:
        f.write("#version: 0.2\n" + "\n".join(merges) + "\n")

    from transformers import CLIPTokenizer
    tokenizer = CLIPTokenizer.from_pretrained(out)
    # The ids of Stable Diffusion's own tokenizer for this sentence.
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer.pad_token_id == 49407


if __name__ == "__main__":
    main(*sys.argv[1:])
