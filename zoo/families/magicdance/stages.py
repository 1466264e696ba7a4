"""How MagicDance is trained. Stage `motion`: EDGE's diffuser of body motion, from music alone."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from zoo.batch import Batch
from zoo.body.skeleton import FEET, forward_kinematics, unpack
from zoo.diffusion.denoiser import Denoiser
from zoo.families.base import Stage

DROP_CONDITION = 0.25  # share of clips that hear nothing, for classifier-free guidance (EDGE's public code)
STILL = 0.95  # a foot whose predicted contact is above this should not move
# EDGE eq. 6 and appendix C, as in its public code
WEIGHTS = {"reconstruction": 0.636, "velocity": 2.964, "joints": 0.646, "feet": 10.942}


class MotionStage(Stage):
    """Denoise 5 s of motion while hearing its music: x0-prediction with EDGE's four losses (sec. 3, eq. 3-6).

    The public code computes joints and feet from *normalised* values (its two lines that undo the scaling are commented
    out), where neither is a length. Here both are in metres, of the un-normalised motion, as the paper means them.
    """

    needs = ("motion", "music", "music_rate", "beats", "fps")

    def trainable(self) -> dict[str, nn.Module]:
        """The denoising network; normaliser and music scaling are fitted, not learned."""
        return {"decoder": self.family.decoder}

    def prepare(self, batches: Callable[[], Iterator[Batch]]) -> None:
        """Fit the motion normaliser and the music scaling in one pass.

        A family that came with its scaling (`init=` of a checkpoint that has one) keeps it, as its weights do.
        """
        normalizer = self.family.normalizer
        if not (torch.equal(normalizer.low, -torch.ones(151)) and torch.equal(normalizer.high, torch.ones(151))):
            return
        scaling = self.family.music_scale.fitting()

        def motions() -> Iterator[Tensor]:
            for batch in batches():
                scaling.add(batch["music"])
                yield batch["motion"]

        normalizer.fit(motions())
        scaling.finish()

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """EDGE's four losses of a random step of the schedule, weighted."""
        family = self.family
        x0 = family.normalizer(batch["motion"])
        beats = [row.nonzero()[:, 0].numpy() / float(batch["fps"]) for row in batch["beats"].cpu()]
        music = family.hear(batch["music"], batch["music_rate"], beats, x0.shape[1])
        t = torch.randint(family.schedule.config.num_train_timesteps, (len(x0),), device=x0.device)
        keep = torch.rand(len(x0), device=x0.device) >= DROP_CONDITION
        denoiser = Denoiser(lambda x, t: family.decoder(x, music, t, keep).float(), family.schedule)
        answer = denoiser(denoiser.noised(x0, torch.randn_like(x0), t), t)
        with torch.autocast(x0.device.type, enabled=False):
            losses = motion_losses(answer, x0, family.normalizer.inverse)
        return {name: WEIGHTS[name] * value for name, value in losses.items()}


def motion_losses(answer: Tensor, x0: Tensor, metres: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """EDGE's losses, not weighted, of normalised motions (B, T, 151); `metres` undoes the scaling.

    reconstruction: all values. velocity: differences between frames, contacts left out. joints: positions by forward
    kinematics, m^2. feet: steps of the foot joints that the answer itself says are in contact, m^2 a frame.
    """
    reconstruction = (answer - x0).square().mean()
    velocity = (answer[..., 4:].diff(dim=1) - x0[..., 4:].diff(dim=1)).square().mean()
    contacts, root, rotations = unpack(metres(answer))
    joints = forward_kinematics(rotations, root)
    with torch.no_grad():
        _, true_root, true_rotations = unpack(metres(x0))
        true_joints = forward_kinematics(true_rotations, true_root)
    steps = joints[:, :, FEET].diff(dim=1).square()
    slips = torch.where(contacts[:, :-1, :, None] > STILL, steps, 0)
    # EDGE averages over all T frames, the last of which has no step
    feet = slips.sum(dim=1).mean() / joints.shape[1]
    joint_error = (joints - true_joints).square().mean()
    return {"reconstruction": reconstruction, "velocity": velocity, "joints": joint_error, "feet": feet}
