mod drains;
mod fixture;
mod properties;
mod records;
mod rows;
mod simulation;
mod volumes;
