"""A byte-level BPE tokenizer in CLIP's format with a few hundred tokens, so that token embeddings stay small.

The merges are learned here from a fixed handful of sentences; nothing is downloaded. Written either as
vocab.json + merges.txt (as Stable Diffusion 1.x and 2.x ship it) or as one tokenizer.json (as newer tools write it).
"""
import collections
import json
import os

MERGES = 220
START, END = "<|startoftext|>", "<|endoftext|>"
CORPUS = """
players running on an athletic field scoreboard displayed people cheering machinery operating workers assembling smoke
billowing children playing cars parked streetlights illuminating neighbors chatting traffic flowing pedestrians
bustling streetlights shimmering picnickers relaxing birds chirping squirrels playing cacti blooming sun glaring camel
walking duck floating boats drifting water rippling seagull standing sunset reflecting palm standing tall sky setting
deer roaming bear roaming tiger walking insects harmonizing wind blowing clouds drifting goats climbing serene view
a red circle on a beach a photo of a cat a blue square in a forest the seagull the tiger and the deer a camel
"""


def byte_characters():
    """One printable character for each byte, in CLIP's order (as in GPT-2)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + k) for k in range(len(other))]


def learn_merges():
    """The most frequent pair first, ties in alphabetical order."""
    words = collections.Counter(CORPUS.split())
    split = {w: [*w[:-1], w[-1] + "</w>"] for w in words}
    merges = []
    for _ in range(MERGES):
        pairs = collections.Counter()
        for word, count in words.items():
            for pair in zip(split[word], split[word][1:]):
                pairs[pair] += count
        best = min(pairs, key=lambda p: (-pairs[p], p))
        merges.append(best)
        for word, parts in split.items():
            merged, i = [], 0
            while i < len(parts):
                if tuple(parts[i:i + 2]) == best:
                    merged.append(parts[i] + parts[i + 1])
                    i += 2
                else:
                    merged.append(parts[i])
                    i += 1
            split[word] = merged
    return merges


def vocabulary(merges):
    characters = byte_characters()
    tokens = characters + [c + "</w>" for c in characters] + [a + b for a, b in merges] + [START, END]
    assert len(tokens) == len(set(tokens))
    return {token: i for i, token in enumerate(tokens)}


def write(folder, pad_token=END, single_file=False):
    """Writes the tokenizer folder; `pad_token` is "!" in Stable Diffusion 2.x."""
    os.makedirs(folder, exist_ok=True)
    merges = learn_merges()
    vocab = vocabulary(merges)
    if single_file:
        from transformers import CLIPTokenizer

        tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, pad_token=pad_token, model_max_length=77)
        tokenizer.save_pretrained(folder)
        assert os.path.exists(f"{folder}/tokenizer.json") and not os.path.exists(f"{folder}/vocab.json")
        # Compact: the file is for programs.
        with open(f"{folder}/tokenizer.json", encoding="utf-8") as f:
            content = json.load(f)
        with open(f"{folder}/tokenizer.json", "w", encoding="utf-8") as f:
            json.dump(content, f, ensure_ascii=False, separators=(",", ":"))
        return len(vocab)
    special = lambda text, normalized: {"content": text, "lstrip": False, "normalized": normalized, "rstrip": False,
                                        "single_word": False}
    files = {
        "vocab.json": vocab,
        "special_tokens_map.json": {"bos_token": special(START, True), "eos_token": special(END, True),
                                    "pad_token": pad_token, "unk_token": special(END, True)},
        "tokenizer_config.json": {"add_prefix_space": False, "bos_token": special(START, True), "do_lower_case": True,
                                  "eos_token": special(END, True), "errors": "replace", "model_max_length": 77,
                                  "pad_token": pad_token, "tokenizer_class": "CLIPTokenizer",
                                  "unk_token": special(END, True)},
    }
    for name, content in files.items():
        with open(f"{folder}/{name}", "w", encoding="utf-8") as f:
            json.dump(content, f, ensure_ascii=False)
    with open(f"{folder}/merges.txt", "w", encoding="utf-8") as f:
        f.write("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    return len(vocab)
