"""silero-vad at 16 kHz (https://github.com/snakers4/silero-vad, MIT): where speech is, window by window.

A short-time Fourier transform as a convolution, four convolutions over its magnitudes, an LSTM cell that carries on
from one window to the next, and a probability.
"""

from typing import Final

import torch
from torch import Tensor, nn

from inferd.plugin import ElementType, Signature, TensorInfo, TensorState

WINDOW, CONTEXT, HOP, FREQUENCIES, WIDTH = 512, 64, 128, 129, 128
FLOAT: Final = ElementType.FLOAT
MOST_BATCH = 64  # windows that are computed together

SIGNATURE: Final = Signature(
    inputs=(
        TensorInfo(
            name="input",
            element_type=FLOAT,
            shape=("batch", CONTEXT + WINDOW),
            description="samples of one channel at 16 kHz, from -1 to 1: the last 64 of the window before, then 512",
        ),
        TensorInfo(name="state", element_type=FLOAT, shape=("batch", 2, WIDTH), description="of the window before"),
    ),
    outputs=(
        TensorInfo(name="output", element_type=FLOAT, shape=("batch", 1), description="how likely there is speech"),
        TensorInfo(name="next_state", element_type=FLOAT, shape=("batch", 2, WIDTH)),
    ),
    states=(TensorState(input_name="state", output_name="next_state", start_shape=(2, WIDTH)),),
    most_batch=MOST_BATCH,
)


class VoiceActivity(nn.Module):
    """The network; names of weights are those of its published safetensors file."""

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 2 * FREQUENCIES, kernel_size=2 * HOP, stride=HOP, bias=False)
        self.conv1 = nn.Conv1d(FREQUENCIES, 128, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, kernel_size=3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, kernel_size=3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, WIDTH, kernel_size=3, padding=1)
        self.lstm_cell = nn.LSTMCell(WIDTH, WIDTH)
        self.final_conv = nn.Conv1d(WIDTH, 1, kernel_size=1)

    def forward(self, samples: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities (batch, 1) and the next state (batch, 2, width), of windows (batch, 576) and their state."""
        padded = nn.functional.pad(samples, (0, CONTEXT), mode="reflect")
        waves = self.stft_conv(padded.unsqueeze(1))
        seen = torch.sqrt(waves[:, :FREQUENCIES] ** 2 + waves[:, FREQUENCIES:] ** 2)
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            seen = torch.relu(layer(seen))
        hidden, cell = self.lstm_cell(seen.squeeze(-1), (state[:, 0], state[:, 1]))
        likely = torch.sigmoid(self.final_conv(torch.relu(hidden).unsqueeze(-1)))
        return likely.squeeze(-1), torch.stack((hidden, cell), dim=1)
