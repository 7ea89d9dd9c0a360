"""The papers behind the methods: model cards, docs and `--help` take their facts from here."""

from __future__ import annotations

from dataclasses import dataclass

from hf_clipalign._errors import ClipAlignError


@dataclass(frozen=True)
class Paper:
    """A paper and how to cite it.

    Attributes:
        key (`str`): name of the method in this package, for example `"isoclip"`.
        method (`str`): what the paper calls its method.
        title (`str`): title of the paper.
        authors (`tuple[str, ...]`): in the order of the paper.
        arxiv (`str`): arXiv identifier.
        year (`int`): year of publication.
        venue (`str`): conference, or "" for a preprint.
        summary (`str`): what the method does, in one sentence.
        code (`str`): address of the authors' code, or "".
    """

    key: str
    method: str
    title: str
    authors: tuple[str, ...]
    arxiv: str
    year: int
    venue: str
    summary: str
    code: str = ""

    @property
    def url(self) -> str:
        """Address of the abstract."""
        return f"https://arxiv.org/abs/{self.arxiv}"

    @property
    def citation(self) -> str:
        """One line for running text."""
        place = f"{self.venue} {self.year}" if self.venue else str(self.year)
        return f"{self.title}, {place}, arXiv {self.arxiv}"

    @property
    def bibtex(self) -> str:
        """A BibTeX entry."""
        fields = {
            "title": f"{{{self.title}}}",
            "author": " and ".join(self.authors),
            "year": str(self.year),
            "eprint": self.arxiv,
            "archivePrefix": "arXiv",
            "url": self.url,
        }
        if self.venue:
            fields["note"] = f"{self.venue} {self.year}"
        lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
        return f"@misc{{{self.key}{self.year},\n{lines}\n}}"


_ALL = (
    Paper(
        key="isoclip",
        method="IsoCLIP",
        title="IsoCLIP: Decomposing CLIP Projectors for Efficient Intra-modal Alignment",
        authors=(
            "Simone Magistri",
            "Dipam Goswami",
            "Marco Mistretta",
            "Bartłomiej Twardowski",
            "Joost van de Weijer",
            "Andrew D. Bagdanov",
        ),
        arxiv="2603.19862",
        year=2026,
        venue="CVPR",
        summary="keeps the middle band of the spectrum of the inter-modal operator in the projectors, without "
        "data and without training, so that images compare better with images and texts with texts",
        code="https://github.com/simomagi/IsoCLIP",
    ),
    Paper(
        key="clip",
        method="CLIP",
        title="Learning Transferable Visual Models From Natural Language Supervision",
        authors=(
            "Alec Radford",
            "Jong Wook Kim",
            "Chris Hallacy",
            "Aditya Ramesh",
            "Gabriel Goh",
            "Sandhini Agarwal",
            "Girish Sastry",
            "Amanda Askell",
            "Pamela Mishkin",
            "Jack Clark",
            "Gretchen Krueger",
            "Ilya Sutskever",
        ),
        arxiv="2103.00020",
        year=2021,
        venue="ICML",
        summary="trains two towers so that an image and its caption are closer than all other pairs of the batch",
        code="https://github.com/openai/CLIP",
    ),
    Paper(
        key="siglip",
        method="SigLIP",
        title="Sigmoid Loss for Language Image Pre-Training",
        authors=("Xiaohua Zhai", "Basil Mustafa", "Alexander Kolesnikov", "Lucas Beyer"),
        arxiv="2303.15343",
        year=2023,
        venue="ICCV",
        summary="judges every pair of an image and a text by itself, with a sigmoid",
        code="https://github.com/google-research/big_vision",
    ),
    Paper(
        key="inversion",
        method="Cross the Gap",
        title="Cross the Gap: Exposing the Intra-modal Misalignment in CLIP via Modality Inversion",
        authors=("Marco Mistretta", "Alberto Baldrati", "Lorenzo Agnolucci", "Marco Bertini", "Andrew D. Bagdanov"),
        arxiv="2502.04263",
        year=2025,
        venue="ICLR",
        summary="maps features to the other modality by optimisation, so that a comparison within one modality "
        "becomes one between modalities",
        code="https://github.com/miccunifi/Cross-the-Gap",
    ),
    Paper(
        key="kdpl",
        method="KDPL",
        title="Improving Zero-shot Generalization of Learned Prompts via Unsupervised Knowledge Distillation",
        authors=("Marco Mistretta", "Alberto Baldrati", "Marco Bertini", "Andrew D. Bagdanov"),
        arxiv="2407.03056",
        year=2024,
        venue="ECCV",
        summary="learns prompts without labels, from the predictions of a bigger CLIP",
        code="https://github.com/miccunifi/KDPL",
    ),
    Paper(
        key="spectralgcd",
        method="SpectralGCD",
        title="SpectralGCD: Spectral Concept Selection and Cross-modal Representation Learning for Generalized "
        "Category Discovery",
        authors=("Lorenzo Caselli", "Marco Mistretta", "Simone Magistri", "Andrew D. Bagdanov"),
        arxiv="2602.17395",
        year=2026,
        venue="ICLR",
        summary="finds unknown classes among unlabelled images through their similarities to the concepts of a "
        "dictionary",
        code="https://github.com/miccunifi/SpectralGCD",
    ),
    Paper(
        key="retune",
        method="RE-tune",
        title="RE-tune: Incremental Fine Tuning of Biomedical Vision-Language Models for Multi-label Chest X-ray "
        "Classification",
        authors=("Marco Mistretta", "Andrew D. Bagdanov"),
        arxiv="2410.17827",
        year=2024,
        venue="",
        summary="adds findings one after the other with small adapters on frozen encoders, from positive and "
        "negative prompts",
    ),
    Paper(
        key="coop",
        method="CoOp",
        title="Learning to Prompt for Vision-Language Models",
        authors=("Kaiyang Zhou", "Jingkang Yang", "Chen Change Loy", "Ziwei Liu"),
        arxiv="2109.01134",
        year=2022,
        venue="International Journal of Computer Vision",
        summary="learns the words around the class name as vectors, the same for all images",
        code="https://github.com/KaiyangZhou/CoOp",
    ),
    Paper(
        key="cocoop",
        method="CoCoOp",
        title="Conditional Prompt Learning for Vision-Language Models",
        authors=("Kaiyang Zhou", "Jingkang Yang", "Chen Change Loy", "Ziwei Liu"),
        arxiv="2203.05557",
        year=2022,
        venue="CVPR",
        summary="learns the words around the class name and a small network that shifts them for each image",
        code="https://github.com/KaiyangZhou/CoOp",
    ),
    Paper(
        key="vpt",
        method="VPT",
        title="Visual Prompt Tuning",
        authors=(
            "Menglin Jia",
            "Luming Tang",
            "Bor-Chun Chen",
            "Claire Cardie",
            "Serge Belongie",
            "Bharath Hariharan",
            "Ser-Nam Lim",
        ),
        arxiv="2203.12119",
        year=2022,
        venue="ECCV",
        summary="learns tokens beside the patches of the image, in one layer or more of the frozen image encoder",
        code="https://github.com/KMnP/vpt",
    ),
    Paper(
        key="maple",
        method="MaPLe",
        title="MaPLe: Multi-modal Prompt Learning",
        authors=(
            "Muhammad Uzair Khattak",
            "Hanoona Rasheed",
            "Muhammad Maaz",
            "Salman Khan",
            "Fahad Shahbaz Khan",
        ),
        arxiv="2210.03117",
        year=2023,
        venue="CVPR",
        summary="learns prompts of the text encoder and maps them to prompts of the image encoder",
        code="https://github.com/muzairkhattak/multimodal-prompt-learning",
    ),
    Paper(
        key="promptsrc",
        method="PromptSRC",
        title="Self-regulating Prompts: Foundational Model Adaptation without Forgetting",
        authors=(
            "Muhammad Uzair Khattak",
            "Syed Talal Wasim",
            "Muzammal Naseer",
            "Salman Khan",
            "Ming-Hsuan Yang",
            "Fahad Shahbaz Khan",
        ),
        arxiv="2307.06948",
        year=2023,
        venue="ICCV",
        summary="learns prompts of both encoders that stay close to the features of the frozen model",
        code="https://github.com/muzairkhattak/PromptSRC",
    ),
)
PAPERS: dict[str, Paper] = {paper.key: paper for paper in _ALL}


def paper(key: str) -> Paper:
    """The paper of a method.

    Args:
        key (`str`): a key of `PAPERS`, for example `"isoclip"` or `"kdpl"`.

    Raises:
        `ClipAlignError`: no such method.
    """
    if key not in PAPERS:
        raise ClipAlignError(f"no paper is known for the method {key!r}: choose from {', '.join(PAPERS)}, or none.")
    return PAPERS[key]
