"""What Hugging Face's GPT-2 says with our weights: logits, and the lists of its constrained beam search.

`transformers` is no requirement of the tests. Its answers are kept in `gpt2_reference.json`. To write the file anew:

    pip install transformers && python tests/generation/gpt2_reference.py
"""

import json
import sys
from pathlib import Path

import torch

PATH = Path(__file__).with_name("gpt2_reference.json")
ROOT = Path(__file__).parents[2]
DIM, LAYERS, HEADS, LEVELS, CODES, ITEMS, BEAM = 8, 2, 2, 3, 4, 20, 6


def problem():
    """Codes, weights by name of `DecoderOnly`, and histories; from one generator, so the same everywhere."""
    generator = torch.Generator().manual_seed(7)
    codes = torch.randint(0, CODES, (ITEMS, LEVELS), generator=generator)
    history = torch.randint(1, ITEMS + 1, (3, 4), generator=generator)
    shapes = {"tokens.weight": (1 + LEVELS * CODES, DIM), "positions.weight": (6 * LEVELS, DIM)}
    sizes = {"qkv": (3 * DIM, DIM), "attention_out": (DIM, DIM), "ffn_in": (4 * DIM, DIM), "ffn_out": (DIM, 4 * DIM)}
    for layer in range(LAYERS):
        for name, shape in sizes.items():
            shapes |= {f"blocks.{layer}.{name}.weight": shape, f"blocks.{layer}.{name}.bias": shape[:1]}
        for name in ("attention_norm", "ffn_norm"):
            shapes |= {f"blocks.{layer}.{name}.weight": (DIM,), f"blocks.{layer}.{name}.bias": (DIM,)}
    shapes |= {"norm.weight": (DIM,), "norm.bias": (DIM,)}
    weights = {name: 0.5 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return codes, weights, history


def tokens_of(codes):
    """One vocabulary for all levels, 0 is padding."""
    return torch.cat([torch.zeros(1, LEVELS, dtype=torch.long), codes + 1 + CODES * torch.arange(LEVELS)])


def main():
    sys.path.insert(0, str(ROOT))
    from tests.benchmarks.peer_transformers import constrained_beam_search, gpt2

    codes, weights, history = problem()
    model, tokens = gpt2(weights, HEADS, LAYERS), tokens_of(codes)
    prompt = tokens[history].flatten(1)
    with torch.no_grad():
        logits = model(prompt).logits
    found = constrained_beam_search(model, tokens, prompt, BEAM)
    answers = {"logits": logits.tolist(), "log_probs": found.tolist()}
    PATH.write_text(json.dumps(answers, indent=None) + "\n")


if __name__ == "__main__":
    main()
