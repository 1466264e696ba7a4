"""Optimisers of the zoo beside closed forms."""

import pytest
import timm.optim.muon
import torch

from zoo.nn.optim import Muon


def test_muon_orthogonalizes_in_float32_on_cpus():
    torch.manual_seed(0)
    left, right = torch.linalg.qr(torch.randn(8, 8))[0], torch.linalg.qr(torch.randn(12, 12))[0]
    singular_values = torch.linspace(0.3, 1, 8)
    parameter = torch.nn.Parameter(torch.zeros(8, 12))
    parameter.grad = left @ torch.diag(singular_values) @ right[:8]
    library_function = timm.optim.muon.zeropower_via_newtonschulz
    Muon([parameter], lr=1.0, momentum=0.0, adjust_lr_fn="original", ns_coefficients="original").step()

    # the iteration is a polynomial of each singular value
    x = singular_values / singular_values.norm()
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
    torch.testing.assert_close(parameter.detach(), -(left @ torch.diag(x) @ right[:8]), atol=1e-5, rtol=0)
    assert timm.optim.muon.zeropower_via_newtonschulz is library_function


def test_muon_restores_the_library_function_after_an_error():
    library_function = timm.optim.muon.zeropower_via_newtonschulz

    def closure() -> None:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        Muon([torch.nn.Parameter(torch.zeros(8, 8))]).step(closure)
    assert timm.optim.muon.zeropower_via_newtonschulz is library_function
