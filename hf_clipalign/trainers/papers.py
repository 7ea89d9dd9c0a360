"""The papers behind the prompt-learning methods: for model cards and documentation, from one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """What a model card says about a method.

    Args:
        name (`str`): of the method.
        title (`str`): of the paper.
        authors (`str`): in BibTeX's form.
        where (`str`): conference or journal.
        year (`int`): of publication there.
        arxiv (`str`): number on arXiv.
    """

    name: str
    title: str
    authors: str
    where: str
    year: int
    arxiv: str

    @property
    def bibtex(self) -> str:
        """The entry to cite."""
        return (
            f"@inproceedings{{{self.name.lower()}{self.year},\n  title = {{{self.title}}},\n"
            f"  author = {{{self.authors}}},\n  booktitle = {{{self.where}}},\n  year = {{{self.year}}},\n"
            f"  eprint = {{{self.arxiv}}},\n  archivePrefix = {{arXiv}},\n}}"
        )


PAPERS = {
    "coop": Paper(
        "CoOp",
        "Learning to Prompt for Vision-Language Models",
        "Zhou, Kaiyang and Yang, Jingkang and Loy, Chen Change and Liu, Ziwei",
        "International Journal of Computer Vision",
        2022,
        "2109.01134",
    ),
    "cocoop": Paper(
        "CoCoOp",
        "Conditional Prompt Learning for Vision-Language Models",
        "Zhou, Kaiyang and Yang, Jingkang and Loy, Chen Change and Liu, Ziwei",
        "CVPR",
        2022,
        "2203.05557",
    ),
    "vpt": Paper(
        "VPT",
        "Visual Prompt Tuning",
        "Jia, Menglin and Tang, Luming and Chen, Bor-Chun and Cardie, Claire and Belongie, Serge and "
        "Hariharan, Bharath and Lim, Ser-Nam",
        "ECCV",
        2022,
        "2203.12119",
    ),
    "maple": Paper(
        "MaPLe",
        "MaPLe: Multi-modal Prompt Learning",
        "Khattak, Muhammad Uzair and Rasheed, Hanoona and Maaz, Muhammad and Khan, Salman and Khan, Fahad Shahbaz",
        "CVPR",
        2023,
        "2210.03117",
    ),
    "promptsrc": Paper(
        "PromptSRC",
        "Self-regulating Prompts: Foundational Model Adaptation without Forgetting",
        "Khattak, Muhammad Uzair and Wasim, Syed Talal and Naseer, Muzammal and Khan, Salman and "
        "Yang, Ming-Hsuan and Khan, Fahad Shahbaz",
        "ICCV",
        2023,
        "2307.06948",
    ),
    "kdpl": Paper(
        "KDPL",
        "Improving Zero-shot Generalization of Learned Prompts via Unsupervised Knowledge Distillation",
        "Mistretta, Marco and Baldrati, Alberto and Bertini, Marco and Bagdanov, Andrew D.",
        "ECCV",
        2024,
        "2407.03056",
    ),
}
"""Papers by the name of the method."""
