mod drains;
mod fixture;
mod properties;
mod rows;
mod simulation;
