//! Where rows go: files written beside and renamed when whole.
