from .data.attach import attach_candidates as attach_candidates
from .data.encyclopedia import FictionalEncyclopedia as FictionalEncyclopedia
from .data.load import load_rag_dataset as load_rag_dataset
from .models.selector_generator import SelectorGenerator as SelectorGenerator
from .pipeline import RAGPipeline as RAGPipeline
from .policies.autoregressive import AutoregressivePolicy as AutoregressivePolicy
from .policies.plackett_luce import PlackettLucePolicy as PlackettLucePolicy
from .retrieval.base import Retriever as Retriever
from .retrieval.pyserini import PyseriniRetriever as PyseriniRetriever
from .rewards.answer import exact_match_reward as exact_match_reward
from .rewards.answer import token_f1_reward as token_f1_reward
from .rewards.evidence import evidence_recall_reward as evidence_recall_reward
from .rewards.likelihood import AnswerLogLikelihood as AnswerLogLikelihood
from .trainer.dro_config import DROConfig as DROConfig
from .trainer.dro_trainer import DROTrainer as DROTrainer
from .types import Passage as Passage
from .types import Question as Question
from .types import Selection as Selection

__version__: str
