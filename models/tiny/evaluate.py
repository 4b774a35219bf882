"""Judges `tiny`: held-out perplexity and sample answers, written into the model card.

Owns the questions of the card; they are judged with greedy decoding.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from pathlib import Path
from typing import Any, cast

import corpus
import torch
from torch.nn import functional
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).resolve().parent
BEGIN, FINISH = "<!-- measured: begin -->", "<!-- measured: end -->"
# Each user turn with texts of which the answer must hold one. Samples, not a measurement: the
# corpus holds some of these questions, or close wordings of them.
CHATS: list[list[tuple[str, str]]] = [
    [("Hello, how are you?", "fine|well")],
    [("hey there buddy, who might you be?", "tiny")],
    [("Could you please tell me a joke?", "?")],
    [("thanks a lot, that helped me", "welcome")],
    [("ok bye for now", "Goodbye")],
    [("On what port is your server reachable?", "5000")],
    [("How would I start the server with the llama model?", "open-llm-server start llama")],
    [("how can i get streamed output", "stream")],
    [("Which HTTP routes can I call on this server?", "/embed")],
    [("How do I set the temperature for my requests?", "temperature")],
    [("Can I use the openai python package with this?", "base_url")],
    [("which model families does this thing support", "flan-t5")],
    [("What's a GGUF file?", "llama.cpp")],
    [("how do I run llama on my gpu", "--device")],
    [("Which environment variables can I set?", "OPEN_LLM")],
    [("What is the capital of France?", "Paris"), ("And of Japan?", "Tokyo")],
    [("What is 7 plus 5?", "12")],
    [("What color is the sky?", "blue")],
    [("Who won the world cup in 1974?", "do not know")],
    [("My name is Anna.", "Anna"), ("Tell me a joke.", "?"), ("What is my name?", "Anna")],
]
COMPLETIONS = ("My name is ...", "Once upon a time")


class Tiny:
    """The Hugging Face folder, loaded for greedy answers."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(folder))
        self.model: Any = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def complete(self, prompt: str, limit: int = 160) -> str:
        """The text that follows, up to the end-of-turn token."""
        ids = torch.tensor([self.tokenizer.encode(prompt)])
        mask = torch.ones_like(ids)
        out = self.model.generate(ids, attention_mask=mask, max_new_tokens=limit)
        return str(self.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))

    def chat(self, turns: list[str], system: str = "") -> list[str]:
        """The answers to a conversation, one for each user turn."""
        messages = [{"role": "system", "content": system}] if system else []
        answers = []
        for turn in turns:
            messages.append({"role": "user", "content": turn})
            prompt = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
            answers.append(self.complete(str(prompt)))
            messages.append({"role": "assistant", "content": answers[-1]})
        return answers

    @torch.no_grad()
    def perplexity(self, documents: list[corpus.Document]) -> float:
        """Over the tokens that the model has to write, the end-of-turn tokens included."""
        total, count = 0.0, 0
        for document in documents:
            ids: list[int] = []
            learn: list[bool] = []
            for piece in document:
                tokens = self.tokenizer.encode(piece.text)
                ids += tokens
                learn += [piece.learn] * len(tokens)
            logits = self.model(torch.tensor([ids])).logits[0, :-1]
            losses = functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
            wanted = torch.tensor(learn[1:])
            total += float(losses[wanted].sum())
            count += int(wanted.sum())
        return math.exp(total / count)


def report(tiny: Tiny) -> tuple[str, int]:
    """Markdown for the card, and how many answers hold what they must."""
    perplexity = tiny.perplexity(corpus.held_out_documents(seed=99, count=400))
    lines = [f"Perplexity of the answers to 400 held-out questions: {perplexity:.3f}", ""]
    right, asked = 0, 0
    samples = []
    for chat in CHATS:
        answers = tiny.chat([question for question, _ in chat])
        for (question, wanted), answer in zip(chat, answers, strict=True):
            good = any(word in answer for word in wanted.split("|"))
            right, asked = right + good, asked + 1
            samples += [f"> **{question}**  ", f"> {answer}".replace("\n", " "), ""]
        samples += ["<!-- -->", ""]
    for prompt in COMPLETIONS:
        samples += [f"> **{prompt}**{tiny.complete(prompt)}".replace("\n", " "), ""]
    lines += [
        f"Sample answers, greedy; {right} of {asked} hold what they must. They are samples, not a "
        "measurement: the corpus holds some of these questions, or close wordings of them.",
        "",
        *samples,
    ]
    return "\n".join(lines), asked - right


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hf", type=Path, default=HERE / "hf")
    parser.add_argument("--card", type=Path, help="the card to write the results into")
    given = parser.parse_args()
    text, wrong = report(Tiny(given.hf))
    if given.card:
        old = given.card.read_text(encoding="utf-8")
        block = f"{BEGIN}\n{text}\n{FINISH}"
        pattern = re.escape(BEGIN) + ".*" + re.escape(FINISH)
        new = re.sub(pattern, lambda _: block, old, flags=re.DOTALL)
        given.card.write_text(new, encoding="utf-8")
    sys.stdout.write(f"{text}\n{wrong} answers lack what they must hold\n")


if __name__ == "__main__":
    main()
