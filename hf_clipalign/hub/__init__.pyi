from .faiss_index import build_faiss_index as build_faiss_index
from .onnx import export_onnx as export_onnx
from .sentence_transformers import export_sentence_transformers as export_sentence_transformers
