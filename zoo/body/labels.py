"""Labels of rendered maps: limbs, DensePose's 24 parts, and semantic labels (skin, hair, clothes)."""

import numpy as np

SEMANTIC = ("background", "skin", "hair", "top", "bottom", "shoes", "face", "trim")  # values of the semantic map
BACKGROUND, SKIN, HAIR, TOP, BOTTOM, SHOES, FACE, TRIM = range(8)  # face: eyes, brows and mouth

# limbs
TORSO, HEAD, HAND, FOOT, THIGH, SHIN, UPPER_ARM, FOREARM = range(8)
JOINT_LIMB = (0, 4, 4, 0, 5, 5, 0, 3, 3, 0, 3, 3, 1, 0, 0, 1, 6, 6, 7, 7, 2, 2, 2, 2)  # limb that a joint moves
BY_POSITION = 255  # label of faces whose points are labelled by their positions

# DensePose's 24 parts, [limb][left side][front]: torso 1 back, 2 front; hands 3 right, 4 left; feet 5 left, 6 right;
# thighs 7-10, shins 11-14, upper arms 15-18, forearms 19-22; head 23 right, 24 left. The front is the side to which a
# body in T-pose faces.
PARTS = np.array(
    [
        [[1, 2], [1, 2]],
        [[23, 23], [24, 24]],
        [[3, 3], [4, 4]],
        [[6, 6], [5, 5]],
        [[7, 9], [8, 10]],
        [[11, 13], [12, 14]],
        [[18, 16], [17, 15]],
        [[22, 20], [21, 19]],
    ],
    dtype=np.uint8,
)
