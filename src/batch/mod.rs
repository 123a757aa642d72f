//! Rows of text to ragged batches: sort by length, cut by token budget, restore the order.
