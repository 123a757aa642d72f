//! Every limit on what comes from outside: models, rows, files, answers of a hub. Each says what it bounds, why it is
//! where it is, and the key that moves it, where one does. SECURITY.md lists them for users.
//!
//! A limit is above everything that is met in earnest: what it stops is damaged or hostile.
