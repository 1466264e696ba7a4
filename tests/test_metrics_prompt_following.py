"""Prompt following: known answers, and the shipped classifier on dances of the choreographer."""

from fractions import Fraction

import numpy as np
import pytest

from zoo.choreography.moves import MOVES
from zoo.metrics.prompt_following import PromptFollowing, _load, move_logits, named_moves, pair_share

JUMP, SPIN, CLAP = np.eye(3, dtype=bool)


def test_a_caption_names_the_moves_whose_words_it_contains():
    phrases = ["jumps", "kicks with the left leg", "kicks with the right leg"]
    assert named_moves("a dancer kicks with the right leg, then jumps", phrases).tolist() == [True, False, True]
    assert not named_moves("", phrases).any()


def test_the_share_of_pairs_that_are_told_apart():
    right, wrong = np.array([2.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])
    assert pair_share([right, wrong], [JUMP, SPIN]) == 1
    assert pair_share([wrong, right], [JUMP, SPIN]) == 0
    assert pair_share([right, right], [JUMP, SPIN]) == 0.5
    # a move that both captions name decides nothing
    assert pair_share([wrong, right], [JUMP | CLAP, CLAP | SPIN]) == 0
    # clip 2 is like clip 0, so two of the pairs are right; 0 and 2 name the same and are no pair
    assert pair_share([right, wrong, right], [JUMP, SPIN, JUMP]) == 1
    assert np.isnan(pair_share([right, wrong], [JUMP, JUMP | CLAP]))


def test_a_column_of_a_set():
    clips = [{"logits": np.array([1.0, 0, 0]), "moves": JUMP}, {"logits": np.array([0, 1.0, 0]), "moves": SPIN}]
    assert PromptFollowing().combine(clips, clips) == {"prompt_following": 1.0}


def test_the_classifier_knows_the_moves_of_the_choreographer():
    """Its phrases are those of the moves of today; a mismatch needs `tools/train_move_classifier.py`."""
    phrases = {
        move.words.format(side=side, other=opposite)
        for move in MOVES.values()
        for side, opposite in (("left", "right"), ("right", "left"))
    }
    assert set(_load()[1]) == phrases


def test_the_frame_rate_does_not_change_what_a_video_shows():
    joints = np.random.default_rng(0).normal(64, 20, (48, 24, 2))
    logits = move_logits(joints, Fraction(12))
    assert move_logits(np.repeat(joints, 2, 0), Fraction(24)) == pytest.approx(logits, abs=1e-5)
    assert np.isfinite(move_logits(np.full((48, 24, 2), np.nan), Fraction(12))).all()
