import torch
from torch import nn

from zoo.models.lstm_seq2seq import BothWays, LSTMSeq2Seq


def test_reading_both_ways_is_torchs_bidirectional_lstm_on_packed_sequences():
    torch.manual_seed(0)
    theirs = nn.LSTM(6, 5, batch_first=True, bidirectional=True)
    ours = BothWays(6, 5)
    for own, suffix in ((ours.forwards, ""), (ours.backwards, "_reverse")):
        own.load_state_dict({name: getattr(theirs, name + suffix) for name in own.state_dict()})
    x, lengths = torch.randn(3, 7, 6), torch.tensor([7, 3, 5])
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    expected, _ = nn.utils.rnn.pad_packed_sequence(theirs(packed)[0], batch_first=True)
    places = torch.arange(7).expand(3, 7)
    turned = torch.where(places < lengths[:, None], lengths[:, None] - 1 - places, places)
    found, _ = ours(x, turned)
    for row, length in enumerate(lengths):
        torch.testing.assert_close(found[row, :length], expected[row, :length])


def test_forget_gates_start_open():
    lstm = LSTMSeq2Seq(9, 9, width=8).decoder
    assert lstm.bias_ih_l0.tolist() == [0.0] * 8 + [1.0] * 8 + [0.0] * 16  # of input, forget, cell and output
    assert not lstm.bias_hh_l0.any()
